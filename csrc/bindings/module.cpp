// care_accel._native: shapes are checked, the interpreter is let go, and the framework-free code is called.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

#include "care/scan.hpp"

namespace py = pybind11;

namespace {

// c_style without forcecast: another dtype or layout is the caller's mistake, not a silent copy.
using Floats = py::array_t<float, py::array::c_style>;

care::Matrix matrix(const Floats& array, const char* name) {
    if (array.ndim() != 2) throw std::invalid_argument(std::string(name) + " must have two dimensions");
    return {array.data(), static_cast<std::size_t>(array.shape(0)), static_cast<std::size_t>(array.shape(1))};
}

py::tuple scan(const Floats& documents, const Floats& queries, std::size_t k, std::size_t threads,
               const std::string& instruction_set) {
    const care::Matrix d = matrix(documents, "documents"), q = matrix(queries, "queries");
    if (d.width != q.width) throw std::invalid_argument("documents and queries differ in width");
    if (d.width == 0) throw std::invalid_argument("width must be above 0");
    py::array_t<float> scores({q.rows, k});
    py::array_t<std::int64_t> ids({q.rows, k});
    float* score_data = scores.mutable_data();
    std::int64_t* id_data = ids.mutable_data();
    {
        py::gil_scoped_release release;
        care::scan(d, q, k, threads, score_data, id_data, instruction_set);
    }
    return py::make_tuple(scores, ids);
}

}  // namespace

PYBIND11_MODULE(_native, module) {
    module.doc() = "The native part of care_accel.";
    module.def("scan", &scan, py::arg("documents").noconvert(), py::arg("queries").noconvert(), py::kw_only(),
               py::arg("k"), py::arg("threads"), py::arg("instruction_set") = "",
               "Return (scores, ids) of the k best documents of each query; see csrc/include/care/scan.hpp.");
    module.def("instruction_sets", &care::instruction_sets, "Return what this processor can run, the fastest first.");
}
