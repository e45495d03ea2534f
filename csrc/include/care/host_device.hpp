// What is compiled for the processor and for the GPU.
#pragma once

#ifdef __CUDACC__
#define CARE_BOTH __host__ __device__
#else
#define CARE_BOTH
#endif
