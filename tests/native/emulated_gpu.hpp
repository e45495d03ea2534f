// A GPU emulated on the CPU, to test the kernels of csrc/cuda without a GPU.
//
// A launch runs its blocks one after another. Each thread of a block is a fibre that runs until it waits for others: at
// a barrier, or where lanes of a warp exchange values. Fibres run in a random order, to detect missing barriers. The
// emulation shows what kernels compute, but not the memory model of a GPU.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)

struct uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    dim3() = default;
    explicit dim3(unsigned wide, unsigned high = 1) : x(wide), y(high) {}
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace emulated {

inline constexpr unsigned kLanesOfWarp = 32;

class Machine {
public:
    dim3 thread, block, grid;
    std::vector<std::uint64_t> shared;

    void run(dim3 blocks, unsigned threads, std::size_t shared_bytes, const std::function<void()>& kernel) {
        grid = blocks;
        kernel_ = &kernel;
        for (block.y = 0; block.y < blocks.y; ++block.y) {
            for (block.x = 0; block.x < blocks.x; ++block.x) {
                // Uninitialised on a GPU: filled with garbage.
                shared.assign(2 * (shared_bytes / 16 + 1), 0xabababababababab);
                run_block(threads);
            }
        }
    }

    void wait_for_block() { wait(State::kAtBarrier); }

    // Contributes a value, and returns the values of all lanes of the warp. Two sets are enough: a lane is never more
    // than one exchange ahead.
    const std::uint64_t (*exchange(const std::uint64_t (&mine)[6]))[6] {
        const unsigned me = thread.x, set = fibres_[me]->exchanges++ % 2;
        std::copy_n(mine, 6, values_[set][me]);
        wait(State::kInWarp);
        return values_[set] + me / kLanesOfWarp * kLanesOfWarp;
    }

private:
    enum class State { kReady, kAtBarrier, kInWarp, kDone };
    struct Fibre {
        State state = State::kReady;
        unsigned exchanges = 0;
        ucontext_t context{};
        std::unique_ptr<char[]> stack;
    };
    // Small: AddressSanitizer clears what it knows of the whole stack whenever a fibre continues. An overflow would
    // first reach the lowest bytes.
    static constexpr std::size_t kStack = 32 * 1024, kGuard = 64;
    static constexpr char kGuardByte = 0x5a;
    static constexpr unsigned kMaxThreads = 1024;

    void run_block(unsigned threads) {
        while (fibres_.size() < threads) {
            fibres_.push_back(std::make_unique<Fibre>());
            fibres_.back()->stack.reset(new char[kStack]);
            std::memset(fibres_.back()->stack.get(), kGuardByte, kGuard);
        }
        for (unsigned i = 0; i < threads; ++i) {
            Fibre& fibre = *fibres_[i];
            fibre.state = State::kReady;
            fibre.exchanges = 0;
            getcontext(&fibre.context);
            fibre.context.uc_stack.ss_sp = fibre.stack.get();
            fibre.context.uc_stack.ss_size = kStack;
            fibre.context.uc_link = &scheduler_;
            makecontext(&fibre.context, &Machine::enter, 0);
        }
        std::vector<unsigned> order(threads);
        std::iota(order.begin(), order.end(), 0u);
        for (;;) {
            std::shuffle(order.begin(), order.end(), random_);
            bool ran = false;
            for (const unsigned i : order) {
                if (fibres_[i]->state != State::kReady) continue;
                ran = true;
                thread.x = i;
                swapcontext(&scheduler_, &fibres_[i]->context);
            }
            if (ran) {
                release_warps(threads);
                continue;
            }
            if (all(0, threads, State::kDone, State::kDone)) {
                for (unsigned i = 0; i < threads; ++i) require_guard(fibres_[i]->stack.get());
                return;
            }
            if (!all(0, threads, State::kAtBarrier, State::kDone)) {
                std::fputs("deadlock: the threads of a block wait for each other\n", stderr);
                std::abort();
            }
            release(0, threads);
        }
    }

    static void require_guard(const char* stack) {
        if (std::all_of(stack, stack + kGuard, [](char byte) { return byte == kGuardByte; })) return;
        std::fputs("a fibre's stack has overflowed: kStack is too small\n", stderr);
        std::abort();
    }

    void release_warps(unsigned threads) {
        for (unsigned warp = 0; warp < threads; warp += kLanesOfWarp) {
            if (all(warp, warp + kLanesOfWarp, State::kInWarp, State::kInWarp)) release(warp, warp + kLanesOfWarp);
        }
    }

    bool all(unsigned begin, unsigned end, State one, State other) const {
        return std::all_of(fibres_.begin() + begin, fibres_.begin() + end,
                           [&](const auto& fibre) { return fibre->state == one || fibre->state == other; });
    }

    void release(unsigned begin, unsigned end) {
        for (unsigned i = begin; i < end; ++i) {
            if (fibres_[i]->state != State::kDone) fibres_[i]->state = State::kReady;
        }
    }

    void wait(State state) {
        const unsigned me = thread.x;
        fibres_[me]->state = state;
        swapcontext(&fibres_[me]->context, &scheduler_);
    }

    static void enter();

    std::vector<std::unique_ptr<Fibre>> fibres_;
    ucontext_t scheduler_{};
    const std::function<void()>* kernel_ = nullptr;
    std::uint64_t values_[2][kMaxThreads][6] = {};
    std::mt19937 random_{7};
};

inline Machine machine;

inline void Machine::enter() {
    (*machine.kernel_)();
    machine.fibres_[machine.thread.x]->state = State::kDone;
}

}  // namespace emulated

#define threadIdx (emulated::machine.thread)
#define blockIdx (emulated::machine.block)
#define gridDim (emulated::machine.grid)

inline void __syncthreads() { emulated::machine.wait_for_block(); }

// Three counters in turn: a thread is never more than one barrier ahead, so that the third one is unused then.
inline int __syncthreads_count(bool mine) {
    static int counts[3] = {}, calls[1024] = {};
    const unsigned me = threadIdx.x;
    const int call = calls[me]++ % 3;
    counts[call] += mine;
    __syncthreads();
    counts[(call + 2) % 3] = 0;
    return counts[call];
}

inline void __threadfence() {}  // one block after another

template <typename Value>
Value __shfl_xor_sync(unsigned, Value value, int apart) {
    const unsigned lane = threadIdx.x % emulated::kLanesOfWarp;
    std::uint64_t mine[6] = {};
    std::memcpy(mine, &value, sizeof value);
    Value other;
    std::memcpy(&other, emulated::machine.exchange(mine)[lane ^ static_cast<unsigned>(apart)], sizeof other);
    return other;
}

inline void __syncwarp() { emulated::machine.exchange({}); }

template <typename Value>
Value atomicAdd(Value* at, Value more) {
    const Value before = *at;
    *at += more;
    return before;
}

template <typename Value>
Value __ldg(const Value* at) {
    return *at;
}

// The part of the CUDA runtime that csrc/cuda uses.
enum cudaError_t { cudaSuccess, cudaErrorMemoryAllocation };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };
enum { cudaEventDisableTiming, cudaStreamNonBlocking };
using cudaEvent_t = int*;
enum cudaDeviceAttr {
    cudaDevAttrMultiProcessorCount,
    cudaDevAttrMaxSharedMemoryPerBlockOptin,
    cudaDevAttrComputeCapabilityMajor
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaMemAllocationType { cudaMemAllocationTypePinned };
enum cudaMemLocationType { cudaMemLocationTypeDevice };
enum cudaMemPoolAttr { cudaMemPoolAttrReleaseThreshold };
struct cudaMemLocation {
    cudaMemLocationType type;
    int id;
};
struct cudaMemPoolProps {
    cudaMemAllocationType allocType;
    cudaMemLocation location;
};
using cudaMemPool_t = int*;
using cudaStream_t = int*;

inline const char* cudaGetErrorString(cudaError_t) { return "out of memory"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaMemPoolCreate(cudaMemPool_t*, const cudaMemPoolProps*) { return cudaSuccess; }
inline cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
inline cudaError_t cudaMemPoolDestroy(cudaMemPool_t) { return cudaSuccess; }
inline cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
struct cudaFuncAttributes {
    int ptxVersion;
};
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* found, const void*) {
    return found->ptxVersion = 90, cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
    return *value = which == cudaDevAttrMaxSharedMemoryPerBlockOptin ? 99 * 1024 : 3, cudaSuccess;
}
inline cudaError_t cudaMalloc(void** at, std::size_t bytes) {
    *at = std::malloc(bytes);
    if (*at) std::memset(*at, 0xab, bytes);  // garbage
    return *at ? cudaSuccess : cudaErrorMemoryAllocation;
}
inline cudaError_t cudaFree(void* at) { return std::free(at), cudaSuccess; }
inline cudaError_t cudaMallocFromPoolAsync(void** at, std::size_t bytes, cudaMemPool_t, cudaStream_t) {
    return cudaMalloc(at, bytes);
}
inline cudaError_t cudaFreeAsync(void* at, cudaStream_t) { return cudaFree(at); }
inline cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind) {
    return std::memcpy(to, from, bytes), cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
    return cudaMemcpy(to, from, bytes, kind);
}
// Launches are synchronous here: there is nothing to wait for.
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t*, unsigned) { return cudaSuccess; }
inline cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t*, unsigned) { return cudaSuccess; }
inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* at, int value, std::size_t bytes, cudaStream_t) {
    return std::memset(at, value, bytes), cudaSuccess;
}

namespace care::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;

// As documented in csrc/cuda/primitives.cuh.
inline void multiply(std::int32_t (&sums)[4], std::uint32_t d0, std::uint32_t d1, std::uint32_t d2, std::uint32_t d3,
                     std::uint32_t q0, std::uint32_t q1) {
    const unsigned lane = threadIdx.x % emulated::kLanesOfWarp;
    const std::uint64_t mine[6] = {d0, d1, d2, d3, q0, q1};
    const auto* all = emulated::machine.exchange(mine);
    for (unsigned i = 0; i < 4; ++i) {
        const unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (unsigned value = 0; value < 32; ++value) {
            const unsigned t = value % 16 / 4, half = value / 16, shift = value % 4 * 8;
            const std::uint64_t document = all[row % 8 * 4 + t][half * 2 + row / 8] >> shift;
            const std::uint64_t query = all[column * 4 + t][4 + half] >> shift;
            sums[i] += static_cast<std::uint8_t>(document) * static_cast<std::int8_t>(query);
        }
    }
}

inline void* shared_memory() { return emulated::machine.shared.data(); }

inline void synchronize_with_previous_kernel() {}
inline void prefetch(const void* at) { static_cast<void>(*static_cast<const volatile char*>(at)); }

template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, std::size_t shared_bytes, cudaStream_t,
                   bool, const Arguments&... arguments) {
    emulated::machine.run(grid, threads, shared_bytes, [&] { kernel(arguments...); });
    return cudaSuccess;
}

}  // namespace care::cuda
