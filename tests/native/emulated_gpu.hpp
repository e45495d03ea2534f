// A GPU emulated on the CPU, to test the kernels of csrc/cuda without a GPU.
//
// A launch runs its blocks one after another. Each thread of a block is a fibre that runs until it waits for others: at
// a barrier, or where lanes of a warp exchange values. Fibres run in a random order, to detect missing barriers. The
// emulation shows what kernels compute, but not the memory model of a GPU.
#pragma once

#include <pthread.h>
#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

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

#include "emulated_runtime.hpp"
#include "unchecked.hpp"

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

// A stack that runs until it switches to another. Jumps instead of swapcontext, which asks the system for the signal mask each
// time: a kernel switches millions of times. AddressSanitizer is told which stack runs.
class Fibre {
public:
    // The scheduler's: the stack of the calling thread.
    Fibre() {
        pthread_attr_t attributes;
        void* lowest = nullptr;
        pthread_getattr_np(pthread_self(), &attributes);
        pthread_attr_getstack(&attributes, &lowest, &size_);
        pthread_attr_destroy(&attributes);
        lowest_ = static_cast<char*>(lowest);
    }

    // One that will run `body`, which never returns, on a stack of its own.
    Fibre(std::size_t size, void (*body)()) : own_(new char[size]), lowest_(own_.get()), size_(size), body_(body) {}

    char* lowest() { return lowest_; }

    // The next switch to it begins its body anew.
    void restart() {
        begun_ = false;
        kept_ = nullptr;
    }

    // Leaves this fibre, which runs, for another; returns when something switches back.
    CARE_UNCHECKED void switch_to(Fibre& next) {
        if (__builtin_setjmp(place_) == 0) go_on(next);
        arrive();
    }

    // To be called first by its body.
    void arrive() {
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_finish_switch_fiber(kept_, nullptr, nullptr);
#endif
    }

private:
    // Not inlined: a function must not jump to a place of its own. Not instrumented: AddressSanitizer takes a jump for the
    // end of all functions on the stack, and forgets what it knows of their variables.
    __attribute__((noinline, no_sanitize_address)) void go_on(Fibre& next) {
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_start_switch_fiber(&kept_, next.lowest_, next.size_);
#endif
        if (next.begun_) __builtin_longjmp(next.place_, 1);
        next.begun_ = true;
        ucontext_t start;
        getcontext(&start);
        start.uc_stack.ss_sp = next.lowest_;
        start.uc_stack.ss_size = next.size_;
        start.uc_link = nullptr;
        makecontext(&start, next.body_, 0);
        setcontext(&start);
    }

    std::unique_ptr<char[]> own_;
    char* lowest_ = nullptr;
    std::size_t size_ = 0;
    void (*body_)() = nullptr;
    bool begun_ = true;
    void* place_[5] = {};
    void* kept_ = nullptr;  // AddressSanitizer's
};

#pragma GCC push_options
#pragma GCC optimize("O2")
class Machine {
public:
    dim3 thread, block, grid;
    unsigned most_rows = 0;  // of blocks in a launch, until now
    std::vector<std::uint64_t> shared;

    void run(dim3 blocks, unsigned threads, std::size_t shared_bytes, const std::function<void()>& kernel) {
        grid = blocks;
        most_rows = std::max(most_rows, blocks.y);
        kernel_ = &kernel;
        for (block.y = 0; block.y < blocks.y; ++block.y) {
            for (block.x = 0; block.x < blocks.x; ++block.x) {
                // Uninitialised on a GPU: filled with garbage.
                shared.assign(2 * (shared_bytes / 16 + 1), 0xabababababababab);
                run_block(threads);
            }
        }
    }

    CARE_UNCHECKED void wait_for_block() { wait(State::kAtBarrier); }

    // Contributes a value, and returns the values of all lanes of the warp. Two sets are enough: a lane is never more
    // than one exchange ahead.
    CARE_UNCHECKED const std::uint64_t (*exchange(const std::uint64_t (&mine)[6]))[6] {
        const unsigned me = thread.x, set = threads_[me].exchanges++ % 2;
        std::uint64_t* const to = values_[set][me];
        for (unsigned i = 0; i < 6; ++i) to[i] = mine[i];
        wait(State::kInWarp);
        return values_[set] + me / kLanesOfWarp * kLanesOfWarp;
    }

private:
    enum class State { kReady, kAtBarrier, kInWarp, kDone };
    struct Thread {
        State state = State::kReady;
        unsigned exchanges = 0;
        Fibre fibre{kStack, &Machine::enter};
    };
    // An overflow would first reach the lowest bytes.
    static constexpr std::size_t kStack = 32 * 1024, kGuard = 64;
    static constexpr char kGuardByte = 0x5a;
    static constexpr unsigned kMaxThreads = 1024;

    CARE_UNCHECKED void run_block(unsigned threads) {
        while (count_ < threads) std::memset(threads_[count_++].fibre.lowest(), kGuardByte, kGuard);
        for (unsigned i = 0; i < threads; ++i) {
            threads_[i].state = State::kReady;
            threads_[i].exchanges = 0;
            threads_[i].fibre.restart();
        }
        unsigned order[kMaxThreads];
        std::iota(order, order + threads, 0u);
        for (;;) {
            for (unsigned i = threads; i > 1; --i) {
                unsigned& other = order[random_below(i)];
                const unsigned mine = order[i - 1];
                order[i - 1] = other;
                other = mine;
            }
            for (unsigned i = 0; i < threads; ++i) {
                Thread& next = threads_[order[i]];
                if (next.state != State::kReady) continue;
                thread.x = order[i];
                scheduler_.switch_to(next.fibre);
            }
            // Every thread waits now, or is done.
            if (release_warps(threads)) continue;
            if (all(0, threads, State::kDone, State::kDone)) {
                for (unsigned i = 0; i < threads; ++i) require_guard(threads_[i].fibre.lowest());
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

    // Uniform; not the standard library's, which takes a tenth of the time.
    CARE_UNCHECKED unsigned random_below(unsigned end) {
        random_ = random_ * 6364136223846793005u + 1442695040888963407u;
        return static_cast<unsigned>((random_ >> 32) * end >> 32);
    }

    // Lets go on the warps whose lanes all wait for each other, and returns whether there are any.
    CARE_UNCHECKED bool release_warps(unsigned threads) {
        bool any = false;
        for (unsigned warp = 0; warp < threads; warp += kLanesOfWarp) {
            if (!all(warp, warp + kLanesOfWarp, State::kInWarp, State::kInWarp)) continue;
            release(warp, warp + kLanesOfWarp);
            any = true;
        }
        return any;
    }

    CARE_UNCHECKED bool all(unsigned begin, unsigned end, State one, State other) const {
        for (unsigned i = begin; i < end; ++i) {
            if (threads_[i].state != one && threads_[i].state != other) return false;
        }
        return true;
    }

    CARE_UNCHECKED void release(unsigned begin, unsigned end) {
        for (unsigned i = begin; i < end; ++i) {
            if (threads_[i].state != State::kDone) threads_[i].state = State::kReady;
        }
    }

    CARE_UNCHECKED void wait(State state) {
        Thread& me = threads_[thread.x];
        me.state = state;
        me.fibre.switch_to(scheduler_);
    }

    static void enter();

    std::unique_ptr<Thread[]> own_{new Thread[kMaxThreads]};
    Thread* const threads_ = own_.get();
    unsigned count_ = 0;  // of those whose stacks are guarded
    Fibre scheduler_;
    const std::function<void()>* kernel_ = nullptr;
    std::uint64_t values_[2][kMaxThreads][6] = {};
    std::uint64_t random_ = 7;
};

#pragma GCC pop_options

inline Machine machine;

inline void Machine::enter() {
    Thread& own = machine.threads_[machine.thread.x];
    own.fibre.arrive();
    (*machine.kernel_)();
    own.state = State::kDone;
    own.fibre.switch_to(machine.scheduler_);
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

namespace care::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;

// As documented in csrc/cuda/primitives.cuh.
[[gnu::optimize("O3")]] CARE_UNCHECKED inline void multiply(std::int32_t (&sums)[4], std::uint32_t d0, std::uint32_t d1, std::uint32_t d2, std::uint32_t d3,
                     std::uint32_t q0, std::uint32_t q1) {
    const unsigned lane = threadIdx.x % emulated::kLanesOfWarp;
    const std::uint64_t mine[6] = {d0, d1, d2, d3, q0, q1};
    const auto* all = emulated::machine.exchange(mine);
    const unsigned row = lane / 4, column = lane % 4 * 2;
    for (unsigned word = 0; word < 8; ++word) {
        const unsigned t = word % 4, half = word / 4;
        const std::uint64_t* const document = all[row * 4 + t];
        const std::uint64_t left = all[column * 4 + t][4 + half], right = all[(column + 1) * 4 + t][4 + half];
        for (unsigned shift = 0; shift < 32; shift += 8) {
            const int low = static_cast<std::uint8_t>(document[half * 2] >> shift);
            const int high = static_cast<std::uint8_t>(document[half * 2 + 1] >> shift);
            const int first = static_cast<std::int8_t>(left >> shift), second = static_cast<std::int8_t>(right >> shift);
            sums[0] += low * first;
            sums[1] += low * second;
            sums[2] += high * first;
            sums[3] += high * second;
        }
    }
}

inline void* shared_memory() { return emulated::machine.shared.data(); }

inline void synchronize_with_previous_kernel() {}
inline void prefetch(const void* at) { static_cast<void>(*static_cast<const volatile char*>(at)); }

template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, std::size_t shared_bytes, cudaStream_t,
                   bool, const Arguments&... arguments) {
    const auto allowed = emulated::dynamic_bytes.find(reinterpret_cast<const void*>(kernel));
    if (shared_bytes > (allowed == emulated::dynamic_bytes.end() ? 48 * 1024 : allowed->second)) {
        std::fputs("a kernel is launched with more shared memory than it may have\n", stderr);
        std::abort();
    }
    emulated::machine.run(grid, threads, shared_bytes, [&] { kernel(arguments...); });
    return cudaSuccess;
}

}  // namespace care::cuda
