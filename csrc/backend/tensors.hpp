// Tensors of the server as NumPy arrays, and back.
#pragma once

#include <pybind11/numpy.h>

#include <string>
#include <vector>

#include "triton_api.hpp"

namespace care::backend {

namespace py = pybind11;

// A named array; BYTES are arrays of bytes objects.
struct Tensor {
    std::string name;
    py::array values;
};

// Copies an input: a model may keep its array for longer than the server keeps the request.
Tensor read_input(TRITONBACKEND_Input* input);

// Writes an output to memory of the response.
void write_output(TRITONBACKEND_Response* response, const Tensor& tensor);

}  // namespace care::backend
