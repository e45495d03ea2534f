#include "model.hpp"

#include <pybind11/eval.h>
#include <pybind11/stl.h>

#include <chrono>
#include <cstring>

#include "interpreter.hpp"

namespace care::backend {
namespace {

std::uint64_t now() {
    return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1));
}

void log_error(const std::string& line) {
    ignore(TRITONSERVER_LogMessage(TRITONSERVER_LOG_ERROR, "care", 0, line.c_str()));
}

// A request of a batch on its way through the model.
struct Job {
    TRITONBACKEND_Request* request;
    TRITONBACKEND_Response* response = nullptr;
    TRITONSERVER_Error* error = nullptr;
    std::uint64_t rows = 1;

    bool failed() const { return error != nullptr; }
};

Request read_request(Job& job) {
    Request read;
    std::uint32_t count = 0;
    check(TRITONBACKEND_RequestInputCount(job.request, &count));
    for (std::uint32_t i = 0; i < count; ++i) {
        TRITONBACKEND_Input* input = nullptr;
        check(TRITONBACKEND_RequestInputByIndex(job.request, i, &input));
        read.inputs.push_back(read_input(input));
    }
    if (count > 0 && read.inputs[0].values.ndim() > 0)
        job.rows = static_cast<std::uint64_t>(read.inputs[0].values.shape(0));
    return read;
}

bool asked_for(TRITONBACKEND_Request* request, const std::string& output) {
    std::uint32_t count = 0;
    check(TRITONBACKEND_RequestOutputCount(request, &count));
    for (std::uint32_t i = 0; i < count; ++i) {
        const char* name = nullptr;
        check(TRITONBACKEND_RequestOutputName(request, i, &name));
        if (output == name) return true;
    }
    return false;
}

void write_response(const Job& job, const Response& answer) {
    if (answer.error) throw Error(answer.error->message, answer.error->code);
    for (const Tensor& tensor : answer.outputs)
        if (asked_for(job.request, tensor.name)) write_output(job.response, tensor);
}

std::vector<py::object> answers_of(const py::object& execute, const std::vector<Request>& requests) {
    auto answers = execute(requests).cast<std::vector<py::object>>();
    if (answers.size() != requests.size())
        throw Error("the model has " + std::to_string(answers.size()) + " responses for " +
                    std::to_string(requests.size()) + " requests");
    return answers;
}

// Python's objects of a batch. They are freed after the responses are sent: nobody waits for that.
struct Objects {
    Objects() = default;
    Objects(const Objects&) = delete;
    Objects& operator=(const Objects&) = delete;
    ~Objects() {
        const Locked lock;
        requests.clear();
        answers.clear();
    }
    std::vector<Request> requests;
    std::vector<py::object> answers;
};

// Fills the responses. Holds the interpreter's lock; returns when the model began and when it ended.
std::pair<std::uint64_t, std::uint64_t> run(const py::object& execute, const std::string& instance,
                                            std::vector<Job>& jobs, Objects& objects) {
    std::vector<Request>& requests = objects.requests;
    std::vector<py::object>& answers = objects.answers;
    std::vector<Job*> valid;
    for (Job& job : jobs) {
        job.error = guarded([&] {
            check(TRITONBACKEND_ResponseNew(&job.response, job.request));
            requests.push_back(read_request(job));
            valid.push_back(&job);
        });
    }
    const std::uint64_t begun = now();
    TRITONSERVER_Error* failure = guarded([&] {
        if (!requests.empty()) answers = answers_of(execute, requests);
    });
    const std::uint64_t ended = now();
    std::string reason;
    if (failure != nullptr) {  // in the words of the Python backend
        reason = "Failed to process the request(s) for model instance '" + instance +
                 "', message: " + TRITONSERVER_ErrorMessage(failure);
        TRITONSERVER_ErrorDelete(failure);
        log_error(reason);
    }
    for (std::size_t i = 0; i < valid.size(); ++i) {
        valid[i]->error = guarded([&] {
            if (!reason.empty()) throw Error(reason);
            if (!py::isinstance<Response>(answers[i])) throw Error("the model's response is no InferenceResponse");
            write_response(*valid[i], answers[i].cast<const Response&>());
        });
    }
    return {begun, ended};
}

}  // namespace

Model::Model(const Identity& identity) : instance_(identity.instance) {
    const Locked lock;
    try {
        py::dict scope;
        const std::string file = identity.folder + "/" + identity.version + "/model.py";
        scope["__name__"] = "model";
        scope["__file__"] = file;
        scope["__builtins__"] = py::module_::import("builtins");
        py::eval_file(file, scope);
        model_ = scope["TritonPythonModel"]();
        py::dict arguments;
        arguments["model_name"] = identity.name;
        arguments["model_version"] = identity.version;
        arguments["model_repository"] = identity.folder;
        arguments["model_config"] = identity.config;
        arguments["model_instance_name"] = identity.instance;
        arguments["model_instance_kind"] = identity.kind;
        arguments["model_instance_device_id"] = identity.device;
        if (py::hasattr(model_, "initialize")) model_.attr("initialize")(arguments);
        execute_ = model_.attr("execute");
    } catch (const std::exception& error) {
        const std::string message = error.what();
        drop();
        throw Error(message);
    }
}

Model::~Model() {
    const Locked lock;
    try {
        if (py::hasattr(model_, "finalize")) model_.attr("finalize")();
    } catch (const std::exception& error) {
        log_error(error.what());
    }
    drop();
}

void Model::drop() {
    execute_ = model_ = py::object();
    // Its memory is needed if another model is loaded in its place.
    ignore(guarded([] { py::module_::import("gc").attr("collect")(); }));
}

void Model::execute(TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests, std::uint32_t count) {
    const std::uint64_t begun = now();
    std::vector<Job> jobs;
    for (std::uint32_t i = 0; i < count; ++i) jobs.push_back({requests[i]});
    std::pair<std::uint64_t, std::uint64_t> compute;
    Objects objects;
    {
        const Locked lock;
        compute = run(execute_, instance_, jobs, objects);
    }
    const std::uint64_t ended = now();
    std::uint64_t rows = 0;
    for (Job& job : jobs) {
        const bool success = !job.failed();
        rows += job.rows;
        if (job.response != nullptr)
            ignore(TRITONBACKEND_ResponseSend(job.response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, job.error));
        ignore(job.error);
        ignore(TRITONBACKEND_ModelInstanceReportStatistics(instance, job.request, success, begun, compute.first,
                                                           compute.second, ended));
        ignore(TRITONBACKEND_RequestRelease(job.request, TRITONSERVER_REQUEST_RELEASE_ALL));
    }
    ignore(TRITONBACKEND_ModelInstanceReportBatchStatistics(instance, rows, begun, compute.first, compute.second, ended));
}

}  // namespace care::backend
