// Runs a function on several threads.
#pragma once

#include <cstddef>
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

namespace care {

// Calls work(0), ..., work(count - 1) in parallel, the first on this thread, and rethrows an exception of any of them.
//
// Workers must claim their share of the work: if the system refuses a thread, fewer of them run.
template <typename Work>
void run_workers(std::size_t count, const Work& work) {
    std::vector<std::exception_ptr> failures(count);
    const auto run = [&](std::size_t worker) noexcept {
        try {
            work(worker);
        } catch (...) {
            failures[worker] = std::current_exception();
        }
    };
    {
        std::vector<std::jthread> threads;
        threads.reserve(count - 1);
        try {
            while (threads.size() + 1 < count) threads.emplace_back(run, threads.size() + 1);
        } catch (const std::system_error&) {
        }
        run(0);
    }
    for (const std::exception_ptr& failure : failures) {
        if (failure) std::rethrow_exception(failure);
    }
}

}  // namespace care
