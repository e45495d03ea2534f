// Runs a function on several threads.
#pragma once

#include <cstddef>
#include <functional>

namespace care {

// Calls work(0), ..., work(count - 1) in parallel, the first on this thread, and rethrows an exception of any of them.
//
// Workers must claim their share of the work: fewer of them run if the system refuses a thread, or where a thread has not
// woken up when work(0) returns. The threads wait for the next call; of calls at the same time one has them. The
// others start threads of their own, and so do those of a thread with another priority than the process has.
void run_workers(std::size_t count, const std::function<void(std::size_t)>& work);

// Ends the threads that wait, such as at the end of a program that is checked for threads left behind.
void end_waiting_workers();

}  // namespace care
