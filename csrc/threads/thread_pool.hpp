// A pool of threads that outlive a call.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace care {

class ThreadPool {
public:
    // Starts size - 1 threads, or as many as the system allows. The caller of run() is the other one.
    explicit ThreadPool(std::size_t size);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    std::size_t size() const { return threads_.size() + 1; }

    // Calls work(0) on this thread at once, and work(i), with 0 < i < count, on threads that wake up in the meantime. A
    // thread may take 100 microseconds to wake up, or as long as another program has its core: those that have not come
    // when work(0) returns are not waited for. So work(0) must see to it that everything is done. Work must not throw.
    // One call at a time, with count at most size().
    void run(std::size_t count, const std::function<void(std::size_t)>& work);

private:
    struct PoolThread {
        alignas(64) std::atomic<int> calls{0};  // number of calls; -1 stops the thread
        int avoided = -1;                       // the core that it is kept off
        std::jthread thread;
    };
    void wake(PoolThread& one, int core);
    void serve(PoolThread& one);
    void take_part();

    std::vector<std::unique_ptr<PoolThread>> threads_;
    // Of the call that is open. Written only while nobody takes part.
    const std::function<void(std::size_t)>* work_ = nullptr;
    std::size_t count_ = 0;
    // How many threads may still take part, times kRoom, and how many do.
    alignas(64) std::atomic<int> state_{0};
};

}  // namespace care
