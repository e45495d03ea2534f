// What a model answers, and the module from which it takes the classes.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "errors.hpp"
#include "tensors.hpp"

namespace care::backend {

inline constexpr char kModule[] = "triton_python_backend_utils";

struct Request {
    std::vector<Tensor> inputs;
};

struct Failure {
    std::string message;
    TRITONSERVER_Error_Code code;
};

struct Response {
    std::vector<Tensor> outputs;
    std::optional<Failure> error;
};

}  // namespace care::backend
