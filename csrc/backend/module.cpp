// The module triton_python_backend_utils of the Python backend, as far as the models of care_accel use it.
#include "module.hpp"

#include <pybind11/embed.h>
#include <pybind11/stl.h>

#include <map>
#include <memory>

namespace care::backend {
namespace {

// Shared by its metrics: the server removes them with it.
class Family {
   public:
    Family(const std::string& name, const std::string& description, TRITONSERVER_MetricKind kind) {
        check(TRITONSERVER_MetricFamilyNew(&family_, kind, name.c_str(), description.c_str()));
    }
    Family(const Family&) = delete;
    Family& operator=(const Family&) = delete;
    ~Family() { ignore(TRITONSERVER_MetricFamilyDelete(family_)); }

    TRITONSERVER_MetricFamily* get() const { return family_; }

   private:
    TRITONSERVER_MetricFamily* family_ = nullptr;
};

class Metric {
   public:
    Metric(std::shared_ptr<Family> family, const std::map<std::string, std::string>& labels) : family_(std::move(family)) {
        std::vector<TRITONSERVER_Parameter*> own;
        for (const auto& [name, value] : labels)
            own.push_back(TRITONSERVER_ParameterNew(name.c_str(), TRITONSERVER_PARAMETER_STRING, value.c_str()));
        const std::vector<const TRITONSERVER_Parameter*> given(own.begin(), own.end());
        TRITONSERVER_Error* error = TRITONSERVER_MetricNew(
            &metric_, family_->get(), const_cast<const TRITONSERVER_Parameter**>(given.data()), given.size());
        for (TRITONSERVER_Parameter* label : own) TRITONSERVER_ParameterDelete(label);
        check(error);
    }
    Metric(const Metric&) = delete;
    Metric& operator=(const Metric&) = delete;
    ~Metric() { ignore(TRITONSERVER_MetricDelete(metric_)); }

    void increment(double amount) { check(TRITONSERVER_MetricIncrement(metric_, amount)); }
    void set(double value) { check(TRITONSERVER_MetricSet(metric_, value)); }

   private:
    std::shared_ptr<Family> family_;
    TRITONSERVER_Metric* metric_ = nullptr;
};

struct Logger {};

void log_warning(const std::string& line) {
    ignore(TRITONSERVER_LogMessage(TRITONSERVER_LOG_WARN, "care", 0, line.c_str()));
}

}  // namespace

PYBIND11_EMBEDDED_MODULE(triton_python_backend_utils, module) {
    // Tells a model that its process is the server's own.
    module.attr("IN_SERVER") = true;
    py::class_<Tensor>(module, "Tensor")
        .def(py::init<std::string, py::array>())
        .def("name", [](const Tensor& tensor) { return tensor.name; })
        .def("as_numpy", [](const Tensor& tensor) { return tensor.values; })
        .def("is_cpu", [](const Tensor&) { return true; });
    py::class_<Request>(module, "InferenceRequest")
        .def("inputs", [](const Request& request) { return request.inputs; });
    py::class_<Failure> failure(module, "TritonError");
    failure.def(py::init([](std::string message, int code) {
        return Failure{std::move(message), static_cast<TRITONSERVER_Error_Code>(code)};
    }));
    failure.attr("INTERNAL") = static_cast<int>(TRITONSERVER_ERROR_INTERNAL);
    failure.attr("INVALID_ARG") = static_cast<int>(TRITONSERVER_ERROR_INVALID_ARG);
    failure.attr("UNAVAILABLE") = static_cast<int>(TRITONSERVER_ERROR_UNAVAILABLE);
    py::class_<Response>(module, "InferenceResponse")
        .def(py::init([](std::vector<Tensor> outputs, std::optional<Failure> error) {
                 return Response{std::move(outputs), std::move(error)};
             }),
             py::arg("output_tensors"), py::arg("error") = py::none());
    py::class_<Metric>(module, "Metric").def("increment", &Metric::increment).def("set", &Metric::set);
    py::class_<Family, std::shared_ptr<Family>> family(module, "MetricFamily");
    family
        .def(py::init([](const std::string& name, const std::string& description, int kind) {
                 return std::make_shared<Family>(name, description, static_cast<TRITONSERVER_MetricKind>(kind));
             }),
             py::arg("name"), py::arg("description"), py::arg("kind"))
        .def(
            "Metric",
            [](std::shared_ptr<Family> self, const std::map<std::string, std::string>& labels) {
                return std::make_unique<Metric>(std::move(self), labels);
            },
            py::arg("labels"));
    family.attr("COUNTER") = static_cast<int>(TRITONSERVER_METRIC_KIND_COUNTER);
    family.attr("GAUGE") = static_cast<int>(TRITONSERVER_METRIC_KIND_GAUGE);
    py::class_<Logger>(module, "Logger").def_static("log_warn", &log_warning);
}

}  // namespace care::backend
