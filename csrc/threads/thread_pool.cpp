#include "thread_pool.hpp"

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

#include <system_error>

#include "phases.hpp"

namespace care {
namespace {

constexpr int kRoom = 1 << 16;

// Linux often wakes a thread on the core of the one that wakes it, though others are idle: on a virtual machine whose
// cores seem to share no cache, more often than not. There it waits until that one sleeps, or for some milliseconds. So
// it gets the affinity of the caller without its present core, once again whenever the caller has moved.
#if defined(__linux__)
int core_of_this_thread() { return sched_getcpu(); }

void keep_off(std::jthread& thread, int core) {
    cpu_set_t others;
    if (core < 0 || core >= CPU_SETSIZE || sched_getaffinity(0, sizeof others, &others) != 0) return;
    CPU_CLR(core, &others);
    // If it fails, or nothing is left, the thread stays where it may be.
    if (CPU_COUNT(&others) > 0) pthread_setaffinity_np(thread.native_handle(), sizeof others, &others);
}
#else
int core_of_this_thread() { return -1; }
void keep_off(std::jthread&, int) {}
#endif

}  // namespace

ThreadPool::ThreadPool(std::size_t size) {
    try {
        while (threads_.size() + 1 < size) {
            auto added = std::make_unique<PoolThread>();
            added->thread = std::jthread([this, &one = *added] { serve(one); });
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
    if (count == 1) return work(0);
    work_ = &work;
    count_ = count;
    state_.store(static_cast<int>(count - 1) * kRoom, std::memory_order_release);
    const int core = core_of_this_thread();
    for (std::size_t i = 0; i + 1 < count; ++i) wake(*threads_[i], core);
    work(0);
    state_.fetch_and(kRoom - 1, std::memory_order_acq_rel);
    for (int busy = state_.load(std::memory_order_acquire); busy > 0; busy = state_.load(std::memory_order_acquire)) {
        wait_for_change(state_, busy);
    }
}

void ThreadPool::wake(PoolThread& one, int core) {
    if (one.avoided != core) {
        keep_off(one.thread, core);
        one.avoided = core;
    }
    one.calls.store((one.calls.load(std::memory_order_relaxed) + 1) & 0xffff, std::memory_order_release);
    one.calls.notify_one();
}

void ThreadPool::serve(PoolThread& one) {
    for (int seen = 0;;) {
        wait_for_change(one.calls, seen);
        seen = one.calls.load(std::memory_order_acquire);
        if (seen < 0) return;
        take_part();
    }
}

// A thread that wakes up too late for the call that it was woken for may find another, which is as good, or none.
void ThreadPool::take_part() {
    int state = state_.load(std::memory_order_acquire);
    do {
        if (state < kRoom) return;
    } while (!state_.compare_exchange_weak(state, state - kRoom + 1, std::memory_order_acquire));
    (*work_)(count_ - static_cast<std::size_t>(state / kRoom));
    if (state_.fetch_sub(1, std::memory_order_acq_rel) == 1) state_.notify_one();
}

}  // namespace care
