#include "workers.hpp"

#include <unistd.h>
#if defined(__linux__)
#include <sched.h>
#include <sys/resource.h>
#endif

#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "thread_pool.hpp"

namespace care {
namespace {

// Threads of one process: they do not survive fork().
struct Shared {
    explicit Shared(pid_t process) : process(process) {}
    const pid_t process;
    std::mutex turn;
    std::unique_ptr<ThreadPool> pool;
};

// A parent's are never touched: its lock may be held for ever. Never destroyed, as a thread may search while the process
// exits.
Shared& shared() {
    static std::atomic<Shared*> current{nullptr};
    const pid_t process = getpid();
    Shared* found = current.load(std::memory_order_acquire);
    while (!found || found->process != process) {
        auto fresh = std::make_unique<Shared>(process);
        if (current.compare_exchange_strong(found, fresh.get(), std::memory_order_acq_rel)) return *fresh.release();
    }
    return *found;
}

// A thread inherits the priority of the one that starts it. Work in the background, at a lower one, has threads of its
// own: those that wait would hold up the searches after it.
bool has_usual_priority() {
#if defined(__linux__)
    const pid_t process = getpid();
    return sched_getscheduler(0) == sched_getscheduler(process) &&
           getpriority(PRIO_PROCESS, 0) == getpriority(PRIO_PROCESS, static_cast<id_t>(process));
#else
    return true;
#endif
}

void run_new_threads(std::size_t count, const std::function<void(std::size_t)>& work) {
    std::vector<std::jthread> threads;
    threads.reserve(count - 1);
    try {
        while (threads.size() + 1 < count) threads.emplace_back(work, threads.size() + 1);
    } catch (const std::system_error&) {
    }
    work(0);
}

}  // namespace

void end_waiting_workers() {
    Shared& threads = shared();
    const std::lock_guard turn(threads.turn);
    threads.pool.reset();
}

void run_workers(std::size_t count, const std::function<void(std::size_t)>& work) {
    if (count <= 1) return work(0);
    std::vector<std::exception_ptr> failures(count);
    const std::function<void(std::size_t)> run = [&](std::size_t worker) noexcept {
        try {
            work(worker);
        } catch (...) {
            failures[worker] = std::current_exception();
        }
    };
    Shared& threads = shared();
    if (std::unique_lock turn(threads.turn, std::try_to_lock); turn && has_usual_priority()) {
        if (!threads.pool || threads.pool->size() < count) threads.pool = std::make_unique<ThreadPool>(count);
        threads.pool->run(count, run);
    } else {
        run_new_threads(count, run);
    }
    for (const std::exception_ptr& failure : failures) {
        if (failure) std::rethrow_exception(failure);
    }
}

}  // namespace care
