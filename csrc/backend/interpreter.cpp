#include "interpreter.hpp"

#include <dlfcn.h>

#include <csignal>
#include <string>

#include "errors.hpp"

namespace care::backend {
namespace {

#define CARE_TEXT_OF(value) #value
#define CARE_TEXT(value) CARE_TEXT_OF(value)
constexpr char kLibrary[] = "libpython" CARE_TEXT(PY_MAJOR_VERSION) "." CARE_TEXT(PY_MINOR_VERSION) ".so.1.0";

void require(const PyStatus& status) {
    if (PyStatus_Exception(status) != 0)
        throw Error(std::string("Python cannot start: ") +
                    (status.err_msg != nullptr ? status.err_msg : "no reason given"));
}

// Its first use by a thread makes the thread's state, and the end of the thread removes it.
struct KeptState {
    KeptState() : state(PyGILState_Ensure()) { PyEval_SaveThread(); }
    ~KeptState() {
        (void)PyGILState_Ensure();
        PyGILState_Release(PyGILState_LOCKED);
        PyGILState_Release(state);
    }
    PyGILState_STATE state;
};

}  // namespace

void start_interpreter() {
    if (Py_IsInitialized() != 0) return;
    // Extension modules find Python's symbols among the global ones; a library that came with a backend is not.
    if (dlopen(kLibrary, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD) == nullptr)
        throw Error(std::string("the Python library is not the one that this was built for, ") + kLibrary);
    // Python's sockets count on this, which its own handlers would do; the others stay with the server.
    struct sigaction now {};
    if (sigaction(SIGPIPE, nullptr, &now) == 0 && now.sa_handler == SIG_DFL) std::signal(SIGPIPE, SIG_IGN);
    PyPreConfig before;
    PyPreConfig_InitPythonConfig(&before);
    before.utf8_mode = 1;         // paths with Chinese characters, whatever the locale
    before.configure_locale = 0;  // the server's
    before.parse_argv = 0;
    require(Py_PreInitialize(&before));
    PyConfig config;
    PyConfig_InitPythonConfig(&config);
    config.install_signal_handlers = 0;
    config.parse_argv = 0;
    const PyStatus status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    require(status);
    PyEval_SaveThread();
}

Locked::Locked() {
    static thread_local const KeptState kept;
    state_ = PyGILState_Ensure();
}

}  // namespace care::backend
