// Threads that stay: a forward pass has some hundred places where they wait for each other.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace care {

// Where a number of threads wait for the last of them: awake for some microseconds, then asleep.
class Barrier {
public:
    explicit Barrier(std::size_t count) : count_(static_cast<int>(count)) {}
    void wait();

private:
    const int count_;
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<int> phase_{0};
};

class Team {
public:
    // Starts size - 1 threads, or as many as the system allows.
    explicit Team(std::size_t size);
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    std::size_t size() const { return helpers_.size() + 1; }

    // Calls work(0), ..., work(count - 1) at once, the first on this thread; work must not throw. One call at a time,
    // count at most size(). The others sleep.
    void run(std::size_t count, const std::function<void(std::size_t)>& work);

private:
    struct Helper {
        alignas(64) std::atomic<int> calls{0};  // -1: the end
        std::jthread thread;
    };
    void serve(Helper& helper, std::size_t worker);

    std::vector<std::unique_ptr<Helper>> helpers_;
    const std::function<void(std::size_t)>* work_ = nullptr;
    alignas(64) std::atomic<int> busy_{0};
};

}  // namespace care
