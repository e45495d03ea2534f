// Errors of the server as C++ exceptions, and back.
#pragma once

#include <stdexcept>
#include <string>

#include "triton_api.hpp"

namespace care::backend {

class Error : public std::runtime_error {
   public:
    explicit Error(const std::string& message, TRITONSERVER_Error_Code code = TRITONSERVER_ERROR_INTERNAL)
        : std::runtime_error(message), code_(code) {}

    TRITONSERVER_Error_Code code() const { return code_; }

   private:
    TRITONSERVER_Error_Code code_;
};

// Throws the error of a call of the server, if there is one.
inline void check(TRITONSERVER_Error* error) {
    if (error == nullptr) return;
    const std::string message = TRITONSERVER_ErrorMessage(error);
    TRITONSERVER_ErrorDelete(error);
    throw Error(message);
}

// Drops the error of a call whose failure nobody can be told.
inline void ignore(TRITONSERVER_Error* error) {
    if (error != nullptr) TRITONSERVER_ErrorDelete(error);
}

// Runs `work` and returns what it throws as an error of the server; null if it throws nothing.
template <typename Work>
TRITONSERVER_Error* guarded(Work&& work) {
    try {
        work();
        return nullptr;
    } catch (const Error& error) {
        return TRITONSERVER_ErrorNew(error.code(), error.what());
    } catch (const std::exception& error) {
        return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, error.what());
    }
}

}  // namespace care::backend
