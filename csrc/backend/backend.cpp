// The backend `care` of NVIDIA's server: runs a model.py as its Python backend does, but in the server's process. A request
// then passes no other process, which takes longer than a small network and a scan.
#include "interpreter.hpp"
#include "model.hpp"

#define CARE_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using care::backend::check;
using care::backend::Error;
using care::backend::guarded;
using care::backend::Identity;
using care::backend::Model;

const char* name_of(TRITONSERVER_InstanceGroupKind kind) {
    return kind == TRITONSERVER_INSTANCEGROUPKIND_GPU ? "GPU" : "CPU";
}

std::string config_of(TRITONBACKEND_Model* model) {
    TRITONSERVER_Message* message = nullptr;
    check(TRITONBACKEND_ModelConfig(model, 1, &message));
    const char* text = nullptr;
    std::size_t size = 0;
    TRITONSERVER_Error* error = TRITONSERVER_MessageSerializeToJson(message, &text, &size);
    const std::string config = error == nullptr ? std::string(text, size) : std::string();
    care::backend::ignore(TRITONSERVER_MessageDelete(message));
    check(error);
    return config;
}

Identity identity_of(TRITONBACKEND_ModelInstance* instance) {
    TRITONBACKEND_Model* model = nullptr;
    check(TRITONBACKEND_ModelInstanceModel(instance, &model));
    const char *name = nullptr, *folder = nullptr, *instance_name = nullptr;
    std::uint64_t version = 0;
    auto artifacts = TRITONBACKEND_ARTIFACT_FILESYSTEM;
    auto kind = TRITONSERVER_INSTANCEGROUPKIND_CPU;
    std::int32_t device = 0;
    check(TRITONBACKEND_ModelName(model, &name));
    check(TRITONBACKEND_ModelVersion(model, &version));
    check(TRITONBACKEND_ModelRepository(model, &artifacts, &folder));
    check(TRITONBACKEND_ModelInstanceName(instance, &instance_name));
    check(TRITONBACKEND_ModelInstanceKind(instance, &kind));
    check(TRITONBACKEND_ModelInstanceDeviceId(instance, &device));
    return {name, std::to_string(version), folder, config_of(model), instance_name, name_of(kind), std::to_string(device)};
}

Model* model_of(TRITONBACKEND_ModelInstance* instance) {
    void* state = nullptr;
    check(TRITONBACKEND_ModelInstanceState(instance, &state));
    return static_cast<Model*>(state);
}

}  // namespace

CARE_EXPORT TRITONSERVER_Error* TRITONBACKEND_Initialize(TRITONBACKEND_Backend*) {
    return guarded([] {
        std::uint32_t major = 0, minor = 0;
        check(TRITONBACKEND_ApiVersion(&major, &minor));
        if (major != 1)
            throw Error("the backend care needs version 1 of the server's API for backends, and this is version " +
                        std::to_string(major));
        care::backend::start_interpreter();
    });
}

CARE_EXPORT TRITONSERVER_Error* TRITONBACKEND_ModelInstanceInitialize(TRITONBACKEND_ModelInstance* instance) {
    return guarded([&] {
        auto model = std::make_unique<Model>(identity_of(instance));
        check(TRITONBACKEND_ModelInstanceSetState(instance, model.get()));
        model.release();
    });
}

CARE_EXPORT TRITONSERVER_Error* TRITONBACKEND_ModelInstanceFinalize(TRITONBACKEND_ModelInstance* instance) {
    return guarded([&] { delete model_of(instance); });
}

CARE_EXPORT TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(TRITONBACKEND_ModelInstance* instance,
                                                                   TRITONBACKEND_Request** requests,
                                                                   const std::uint32_t count) {
    return guarded([&] { model_of(instance)->execute(instance, requests, count); });
}
