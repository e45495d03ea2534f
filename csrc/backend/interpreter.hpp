// The Python interpreter in the server's process.
#pragma once

#include <pybind11/pybind11.h>

namespace care::backend {

// Starts the interpreter unless it runs. It is never ended: threads of libraries may still be in it, and the process ends
// anyway.
void start_interpreter();

// Holds the interpreter's lock. The thread's state is kept until the thread ends: one for each batch would cost microseconds,
// and what libraries keep by thread.
class Locked {
   public:
    Locked();
    Locked(const Locked&) = delete;
    Locked& operator=(const Locked&) = delete;
    ~Locked() { PyGILState_Release(state_); }

   private:
    PyGILState_STATE state_;
};

}  // namespace care::backend
