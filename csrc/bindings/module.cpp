// care_accel._native: shapes are checked, the interpreter is let go, and the framework-free code is called.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <stdexcept>
#include <string>

#include "care/codes.hpp"
#include "care/scan.hpp"

namespace py = pybind11;

namespace {

// c_style without forcecast: another dtype or layout is the caller's mistake, not a silent copy.
template <typename Element>
using Array = py::array_t<Element, py::array::c_style>;

void require(bool holds, const char* otherwise) {
    if (!holds) throw std::invalid_argument(otherwise);
}

care::Matrix matrix(const Array<float>& array, const char* name) {
    if (array.ndim() != 2) throw std::invalid_argument(std::string(name) + " must have two dimensions");
    return {array.data(), static_cast<std::size_t>(array.shape(0)), static_cast<std::size_t>(array.shape(1))};
}

// Codes as Python keeps them: bytes [blocks, block_bytes(width)], norms [2 + norms(width), rows of all blocks].
struct Layout {
    Layout(const Array<std::uint8_t>& bytes, const Array<float>& norms, const Array<float>& mean, std::size_t rows,
           std::size_t width) {
        require(width >= 1 && width <= care::kMostWidth, "width must be 1 to 65536");
        require(bytes.ndim() == 2 && static_cast<std::size_t>(bytes.shape(0)) >= care::blocks(rows) &&
                    static_cast<std::size_t>(bytes.shape(1)) == care::block_bytes(width),
                "bytes must be [blocks, bytes of a block]");
        require(norms.ndim() == 2 && static_cast<std::size_t>(norms.shape(0)) == 2 + care::norms(width) &&
                    static_cast<std::size_t>(norms.shape(1)) >= care::blocks(rows) * care::kBlock,
                "norms must be [2 + norms, rows of all blocks]");
        require(mean.ndim() == 1 && static_cast<std::size_t>(mean.shape(0)) == width, "mean must be [width]");
    }
};

void encode(const Array<float>& vectors, std::size_t first, const Array<float>& mean, int exponent,
            std::size_t threads, Array<std::uint8_t> bytes, Array<float> norms) {
    const care::Matrix rows = matrix(vectors, "vectors");
    Layout(bytes, norms, mean, first + rows.rows, rows.width);
    const std::size_t stride = static_cast<std::size_t>(norms.shape(1));
    float* base = norms.mutable_data();
    std::array<float*, care::kMostNorms> errors{};
    for (std::size_t i = 0; i < care::norms(rows.width); ++i) errors[i] = base + (2 + i) * stride;
    const care::MutableCodes codes{bytes.mutable_data(), base, base + stride, errors.data()};
    const float* mean_data = mean.data();
    py::gil_scoped_release release;
    care::encode(rows.data, first, rows.rows, rows.width, mean_data, exponent, threads, codes);
}

py::tuple search(const Array<float>& vectors, const Array<std::uint8_t>& bytes, const Array<float>& norms,
                 const Array<float>& mean, int exponent, const Array<float>& queries, std::size_t k,
                 std::size_t threads, const std::optional<Array<std::uint16_t>>& allowed,
                 const std::string& instruction_set) {
    const care::Matrix d = matrix(vectors, "vectors"), q = matrix(queries, "queries");
    Layout(bytes, norms, mean, d.rows, d.width);
    require(q.width >= 1 && q.width <= d.width, "queries must not be wider than the vectors");
    require(!allowed || (allowed->ndim() == 1 &&
                         static_cast<std::size_t>(allowed->shape(0)) >= care::blocks(d.rows)),
            "allowed must be [blocks]");
    const std::size_t stride = static_cast<std::size_t>(norms.shape(1));
    std::array<const float*, care::kMostNorms> errors{};
    for (std::size_t i = 0; i < care::norms(d.width); ++i) errors[i] = norms.data() + (2 + i) * stride;
    const care::Codes codes{bytes.data(), norms.data(), norms.data() + stride, errors.data(), mean.data(), exponent};
    const care::Search how{k, threads, allowed ? allowed->data() : nullptr, instruction_set};
    Array<double> scores({q.rows, k});
    Array<std::int64_t> ids({q.rows, k}), rescored(static_cast<py::ssize_t>(q.rows));
    double* score_data = scores.mutable_data();
    std::int64_t *id_data = ids.mutable_data(), *rescored_data = rescored.mutable_data();
    {
        py::gil_scoped_release release;
        care::search(d, codes, q, how, score_data, id_data, rescored_data);
    }
    return py::make_tuple(scores, ids, rescored);
}

// The nearest float32 of each score, whatever rounding the caller has set.
Array<float> as_float32(const Array<double>& scores) {
    Array<float> rounded({scores.shape(0), scores.shape(1)});
    care::as_float32(scores.data(), static_cast<std::size_t>(scores.size()), rounded.mutable_data());
    return rounded;
}

}  // namespace

PYBIND11_MODULE(_native, module) {
    module.doc() = "The native part of care_accel.";
    module.attr("BLOCK") = care::kBlock;
    module.attr("MOST_WIDTH") = care::kMostWidth;
    module.def("block_bytes", &care::block_bytes, py::arg("width"), "Return the bytes of a block of coded vectors.");
    module.def("norms", &care::norms, py::arg("width"), "Return how many error norms a vector has.");
    module.def("encode", &encode, py::arg("vectors").noconvert(), py::kw_only(), py::arg("first"),
               py::arg("mean").noconvert(), py::arg("exponent"), py::arg("threads"), py::arg("bytes").noconvert(),
               py::arg("norms").noconvert(), "Write the codes of some rows; see csrc/include/care/codes.hpp.");
    module.def("search", &search, py::arg("vectors").noconvert(), py::kw_only(), py::arg("bytes").noconvert(),
               py::arg("norms").noconvert(), py::arg("mean").noconvert(), py::arg("exponent"),
               py::arg("queries").noconvert(), py::arg("k"), py::arg("threads"),
               py::arg("allowed").noconvert() = py::none(), py::arg("instruction_set") = "",
               "Return (scores, ids, rescored) of the k best vectors of each query; see csrc/include/care/scan.hpp.");
    module.def("as_float32", &as_float32, py::arg("scores").noconvert(), "Return the nearest float32 of each score.");
    module.def("instruction_sets", &care::instruction_sets, "Return what this processor can run, the fastest first.");
}
