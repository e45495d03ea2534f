// What kernels use of the GPU beyond plain C++. The tests give other definitions, which run on the processor.
#pragma once

#ifdef CARE_EMULATED
#include "emulated_gpu.hpp"
#else

#include <cuda_runtime.h>

#include <cstdint>

namespace care::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;

// sums += documents x queries, over 32 values of 16 documents and 8 columns. In a lane, with g = lane / 4, t = lane % 4:
// document words are values 4t.. of rows g and g + 8, then values 16 + 4t.. of both; query words values 4t.. and
// 16 + 4t.. of column g; sums are columns 2t and 2t + 1 of row g, then of row g + 8 (PTX ISA, mma.m16n8k32).
__device__ inline void multiply(std::int32_t (&sums)[4], std::uint32_t d0, std::uint32_t d1, std::uint32_t d2,
                                std::uint32_t d3, std::uint32_t q0, std::uint32_t q1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
        : "r"(d0), "r"(d1), "r"(d2), "r"(d3), "r"(q0), "r"(q1));
}

// Asks for a line of memory without waiting for it.
__device__ inline void prefetch(const void* at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); }

// Memory that the threads of a block share, as long as the launch says.
__device__ inline void* shared_memory() {
    extern __shared__ uint4 memory[];
    return memory;
}

// Waits for the kernel before, which may still run when this one starts, and lets the next one start: what is done
// before that is done while others still run. Every kernel that is launched as `overlapping` says it first.
__device__ inline void take_turn() {
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
