// A pool of threads that outlive a call: a forward pass has some hundred barriers.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace care {

// A barrier whose threads spin for some microseconds before they sleep.
class Barrier {
public:
    explicit Barrier(std::size_t count) : count_(static_cast<int>(count)) {}
    void wait();

private:
    const int count_;
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<int> phase_{0};
};

class ThreadPool {
public:
    // Starts size - 1 threads, or as many as the system allows. The caller of run() is the other one.
    explicit ThreadPool(std::size_t size);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    std::size_t size() const { return threads_.size() + 1; }

    // Calls work(0), ..., work(count - 1) in parallel, the first on this thread; work must not throw. One call at a
    // time, with count at most size().
    void run(std::size_t count, const std::function<void(std::size_t)>& work);

private:
    struct PoolThread {
        alignas(64) std::atomic<int> calls{0};  // number of calls; -1 stops the thread
        std::jthread thread;
    };
    void serve(PoolThread& one, std::size_t worker);

    std::vector<std::unique_ptr<PoolThread>> threads_;
    const std::function<void(std::size_t)>* work_ = nullptr;
    alignas(64) std::atomic<int> busy_{0};
};

}  // namespace care
