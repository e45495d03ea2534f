// A model.py that runs in the server's process.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "module.hpp"

namespace care::backend {

// What the server tells a model.
struct Identity {
    std::string name, version, folder, config, instance, kind, device;
};

class Model {
   public:
    // Runs the file and `initialize` of its class TritonPythonModel; throws what it raises, with where it was raised.
    explicit Model(const Identity& identity);
    Model(const Model&) = delete;
    Model& operator=(const Model&) = delete;
    // Runs `finalize`.
    ~Model();

    // Answers requests, and releases them. Everything that fails is a response.
    void execute(TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests, std::uint32_t count);

   private:
    void drop();

    std::string instance_;
    py::object model_, execute_;
};

}  // namespace care::backend
