// What kernels use of the GPU beyond plain C++. The tests replace it by an emulation on the CPU.
#pragma once

#ifdef CARE_EMULATED
#include "emulated_gpu.hpp"
#else

#include <cuda_runtime.h>

#include <cstdint>

namespace care::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;

// sums += documents x queries, over 32 values of 16 documents and 8 columns (PTX ISA, mma.m16n8k32). With g = lane / 4
// and t = lane % 4, a lane has these words:
// - documents: values 4t.. of rows g and g + 8, then values 16 + 4t.. of both rows
// - queries: values 4t.. and 16 + 4t.. of column g
// - sums: columns 2t and 2t + 1 of row g, then of row g + 8
__device__ inline void multiply(std::int32_t (&sums)[4], std::uint32_t d0, std::uint32_t d1, std::uint32_t d2,
                                std::uint32_t d3, std::uint32_t q0, std::uint32_t q1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
        : "r"(d0), "r"(d1), "r"(d2), "r"(d3), "r"(q0), "r"(q1));
}

// Prefetches a cache line.
__device__ inline void prefetch(const void* at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); }

// The dynamic shared memory of a block.
__device__ inline void* shared_memory() {
    extern __shared__ uint4 memory[];
    return memory;
}

// Programmatic dependent launch: waits until the previous kernel is complete, and allows the next kernel to start. What
// a kernel does before this call overlaps with its predecessor. Every kernel that is launched as `overlapping` must
// call it first.
__device__ inline void synchronize_with_previous_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, std::size_t shared_bytes,
                   cudaStream_t stream, bool overlapping, const Arguments&... arguments) {
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = overlapping ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace care::cuda

#endif
