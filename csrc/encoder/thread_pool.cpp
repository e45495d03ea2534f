#include "thread_pool.hpp"

#include <system_error>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace care {
namespace {

// Spins take a few tens of microseconds, as long as going to sleep and waking up.
constexpr int kSpins = 2000;

void pause() {
#if defined(__SSE2__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Returns once the value is another than `old`.
void wait_for_change(const std::atomic<int>& value, int old) {
    for (int spin = 0; spin < kSpins; ++spin) {
        if (value.load(std::memory_order_acquire) != old) return;
        pause();
    }
    value.wait(old, std::memory_order_acquire);
}

}  // namespace

void Barrier::wait() {
    const int phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < count_) return wait_for_change(phase_, phase);
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    phase_.notify_all();
}

ThreadPool::ThreadPool(std::size_t size) {
    try {
        while (threads_.size() + 1 < size) {
            auto added = std::make_unique<PoolThread>();
            added->thread = std::jthread([this, &one = *added, worker = threads_.size() + 1] { serve(one, worker); });
            threads_.push_back(std::move(added));
        }
    } catch (const std::system_error&) {
    }
}

ThreadPool::~ThreadPool() {
    for (const auto& one : threads_) {
        one->calls.store(-1, std::memory_order_release);
        one->calls.notify_one();
    }
}

void ThreadPool::run(std::size_t count, const std::function<void(std::size_t)>& work) {
    work_ = &work;
    busy_.store(static_cast<int>(count) - 1, std::memory_order_relaxed);
    for (std::size_t i = 0; i + 1 < count; ++i) {
        std::atomic<int>& calls = threads_[i]->calls;
        calls.store((calls.load(std::memory_order_relaxed) + 1) & 0xffff, std::memory_order_release);
        calls.notify_one();
    }
    work(0);
    for (int busy = busy_.load(std::memory_order_acquire); busy > 0; busy = busy_.load(std::memory_order_acquire)) {
        wait_for_change(busy_, busy);
    }
}

void ThreadPool::serve(PoolThread& one, std::size_t worker) {
    for (int seen = 0;;) {
        one.calls.wait(seen, std::memory_order_acquire);
        seen = one.calls.load(std::memory_order_acquire);
        if (seen < 0) return;
        (*work_)(worker);
        if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_one();
    }
}

}  // namespace care
