// For functions that are compiled for the CPU and for the GPU.
#pragma once

#ifdef __CUDACC__
#define CARE_HOST_DEVICE __host__ __device__
#else
#define CARE_HOST_DEVICE
#endif
