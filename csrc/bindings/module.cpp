// care_accel._native: shapes are checked, the interpreter is let go, and the framework-free code is called.
#include <pybind11/stl.h>

#include <optional>

#include "shapes.hpp"

void bind_encoder(py::module_& module);
#ifdef CARE_CUDA
void bind_cuda(py::module_& module);
#endif

namespace {

void encode(const Array<float>& vectors, std::size_t first, const Array<float>& mean, int exponent,
            std::size_t threads, Array<std::uint8_t> bytes, Array<float> norms) {
    const care::Matrix rows = matrix(vectors, "vectors");
    CodeArrays(bytes, norms, mean, exponent, first + rows.rows, rows.width);
    const std::size_t stride = static_cast<std::size_t>(norms.shape(1));
    float* base = norms.mutable_data();
    std::array<float*, care::kMostNorms> errors{};
    for (std::size_t i = 0; i < care::norms(rows.width); ++i) errors[i] = base + (2 + i) * stride;
    const care::MutableCodes codes{bytes.mutable_data(), base, base + stride, errors.data()};
    const float* mean_data = mean.data();
    py::gil_scoped_release release;
    care::encode(rows.data, first, rows.rows, rows.width, mean_data, exponent, threads, codes);
}

void encode_halves(const Array<float>& vectors, std::size_t first, const Array<float>& mean, int exponent,
                   std::size_t threads, Array<std::uint8_t> bytes, Array<std::uint8_t> quarters, Array<float> norms) {
    const care::Matrix rows = matrix(vectors, "vectors");
    HalfArrays(bytes, quarters, norms, first + rows.rows, rows.width);
    require(mean.ndim() == 1 && static_cast<std::size_t>(mean.shape(0)) == rows.width, "mean must be [width]");
    float* base = norms.mutable_data();
    const py::ssize_t stride = norms.shape(1);
    const care::MutableHalves halves{bytes.mutable_data(), base, base + stride, quarters.mutable_data(), base + 2 * stride};
    const float* mean_data = mean.data();
    py::gil_scoped_release release;
    care::encode_halves(rows.data, first, rows.rows, rows.width, mean_data, exponent, threads, halves);
}

py::tuple search(const Array<float>& vectors, const Array<std::uint8_t>& bytes, const Array<float>& norms,
                 const Array<float>& mean, int exponent, const Array<float>& queries, std::size_t k,
                 std::size_t threads, const std::optional<Array<std::uint16_t>>& allowed,
                 const std::string& instruction_set, const std::optional<Array<std::uint8_t>>& half_bytes,
                 const std::optional<Array<std::uint8_t>>& quarters, const std::optional<Array<float>>& half_norms) {
    const care::Matrix d = matrix(vectors, "vectors"), q = matrix(queries, "queries");
    const CodeArrays arrays(bytes, norms, mean, exponent, d.rows, d.width);
    require(q.width >= 1 && q.width <= d.width, "queries must not be wider than the vectors");
    if (allowed) require_allowed(*allowed, d.rows);
    require(half_bytes.has_value() == half_norms.has_value() && half_bytes.has_value() == quarters.has_value(),
            "half_bytes, quarters and half_norms go together");
    care::Codes codes = arrays.codes();
    care::Halves halves{};
    if (half_bytes) {
        halves = HalfArrays(*half_bytes, *quarters, *half_norms, d.rows, d.width).halves;
        codes.halves = &halves;
    }
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
    module.def("half_block_bytes", &care::half_block_bytes, py::arg("width"), "Return the bytes of a block of halves.");
    module.def("quarter_bytes", &care::quarter_bytes, py::arg("width"), "Return the bytes of a vector's quarters.");
    module.def("norms", &care::norms, py::arg("width"), "Return how many error norms a vector has.");
    module.def("encode", &encode, py::arg("vectors").noconvert(), py::kw_only(), py::arg("first"),
               py::arg("mean").noconvert(), py::arg("exponent"), py::arg("threads"), py::arg("bytes").noconvert(),
               py::arg("norms").noconvert(), "Write the codes of some rows; see csrc/include/care/codes.hpp.");
    module.def("encode_halves", &encode_halves, py::arg("vectors").noconvert(), py::kw_only(), py::arg("first"),
               py::arg("mean").noconvert(), py::arg("exponent"), py::arg("threads"), py::arg("bytes").noconvert(),
               py::arg("quarters").noconvert(), py::arg("norms").noconvert(),
               "Write the halves and quarters of some rows; see csrc/include/care/codes.hpp.");
    module.def("search", &search, py::arg("vectors").noconvert(), py::kw_only(), py::arg("bytes").noconvert(),
               py::arg("norms").noconvert(), py::arg("mean").noconvert(), py::arg("exponent"),
               py::arg("queries").noconvert(), py::arg("k"), py::arg("threads"),
               py::arg("allowed").noconvert() = py::none(), py::arg("instruction_set") = "",
               py::arg("half_bytes").noconvert() = py::none(), py::arg("quarters").noconvert() = py::none(),
               py::arg("half_norms").noconvert() = py::none(),
               "Return (scores, ids, rescored) of the k best vectors of each query; see csrc/include/care/scan.hpp.");
    module.def("as_float32", &as_float32, py::arg("scores").noconvert(), "Return the nearest float32 of each score.");
    module.def("instruction_sets", &care::instruction_sets, "Return what this processor can run, the fastest first.");
    bind_encoder(module);
#ifdef CARE_CUDA
    module.attr("CUDA") = true;
    bind_cuda(module);
#else
    module.attr("CUDA") = false;
#endif
}
