// The module care_accel._native: checks shapes, releases the GIL, and calls the framework-free code.
#include <pybind11/stl.h>

#include <algorithm>
#include <bit>
#include <cstdint>
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
    std::array<float*, care::kMaxErrorNorms> errors{};
    for (std::size_t i = 0; i < care::error_norm_count(rows.width); ++i) errors[i] = base + (2 + i) * stride;
    const care::MutableCodes codes{bytes.mutable_data(), base, base + stride, errors.data()};
    const float* mean_data = mean.data();
    py::gil_scoped_release release;
    care::encode(rows.data, first, rows.rows, rows.width, mean_data, exponent, threads, codes);
}

void encode_int4(const Array<float>& vectors, std::size_t first, const Array<float>& mean, int exponent,
                 const Array<float>& value_scales, std::size_t threads, Array<std::uint8_t> bytes,
                 Array<std::uint8_t> residuals, Array<float> norms) {
    const care::Matrix rows = matrix(vectors, "vectors");
    Int4Arrays(bytes, residuals, norms, value_scales, first + rows.rows, rows.width);
    require(mean.ndim() == 1 && static_cast<std::size_t>(mean.shape(0)) == rows.width, "mean must be [width]");
    float* base = norms.mutable_data();
    const py::ssize_t stride = norms.shape(1);
    const care::MutableInt4Codes codes{bytes.mutable_data(), base, base + stride, residuals.mutable_data(),
                                       base + 2 * stride};
    const float *mean_data = mean.data(), *scale_data = value_scales.data();
    py::gil_scoped_release release;
    care::encode_int4(rows.data, first, rows.rows, rows.width, mean_data, exponent, scale_data, threads, codes);
}

py::tuple search(const Array<float>& vectors, const Array<std::uint8_t>& bytes, const Array<float>& norms,
                 const Array<float>& mean, int exponent, const Array<float>& queries, std::size_t k,
                 std::size_t threads, const std::optional<Array<std::uint16_t>>& allowed,
                 const std::string& instruction_set, const std::optional<Array<std::uint8_t>>& int4_bytes,
                 const std::optional<Array<std::uint8_t>>& residuals, const std::optional<Array<float>>& int4_norms,
                 const std::optional<Array<float>>& value_scales) {
    const care::Matrix d = matrix(vectors, "vectors"), q = matrix(queries, "queries");
    const CodeArrays arrays(bytes, norms, mean, exponent, d.rows, d.width);
    require(q.width >= 1 && q.width <= d.width, "queries must not be wider than the vectors");
    if (allowed) require_allowed(*allowed, d.rows);
    require(int4_bytes.has_value() == int4_norms.has_value() && int4_bytes.has_value() == residuals.has_value() &&
                int4_bytes.has_value() == value_scales.has_value(),
            "int4_bytes, residuals, int4_norms and value_scales go together");
    care::Codes codes = arrays.codes();
    care::Int4Codes int4{};
    if (int4_bytes) {
        int4 = Int4Arrays(*int4_bytes, *residuals, *int4_norms, *value_scales, d.rows, d.width).codes;
        codes.int4 = &int4;
    }
    const care::SearchOptions options{k, threads, allowed ? allowed->data() : nullptr, instruction_set};
    Array<double> scores({q.rows, k});
    Array<std::int64_t> ids({q.rows, k}), rescored(static_cast<py::ssize_t>(q.rows));
    double* score_data = scores.mutable_data();
    std::int64_t *id_data = ids.mutable_data(), *rescored_data = rescored.mutable_data();
    {
        py::gil_scoped_release release;
        care::search(d, codes, q, options, score_data, id_data, rescored_data);
    }
    return py::make_tuple(scores, ids, rescored);
}

py::tuple search_rows(const Array<float>& vectors, const Array<std::int64_t>& rows, const Array<float>& queries,
                      std::size_t k, std::size_t threads, const std::string& instruction_set) {
    const care::Matrix d = matrix(vectors, "vectors"), q = matrix(queries, "queries");
    require(q.width >= 1 && q.width <= d.width, "queries must not be wider than the vectors");
    require(rows.ndim() == 1, "rows must be [n]");
    const std::size_t count = static_cast<std::size_t>(rows.size());
    const std::int64_t* row_data = rows.data();
    for (std::size_t i = 0; i < count; ++i) {
        require(row_data[i] >= 0 && static_cast<std::size_t>(row_data[i]) < d.rows, "rows must be rows of the vectors");
    }
    Array<double> scores({q.rows, k});
    Array<std::int64_t> ids({q.rows, k});
    double* score_data = scores.mutable_data();
    std::int64_t* id_data = ids.mutable_data();
    {
        py::gil_scoped_release release;
        care::search_rows(d, row_data, count, q, {k, threads, nullptr, instruction_set}, score_data, id_data);
    }
    return py::make_tuple(scores, ids);
}

// Of one query the k best of what another library found: rows in any order, negative ones for none. `ids` has the id of
// each row, negative ones for none; null if they are the same. Rows without their bit in `alive` are left out, as well.
py::tuple search_candidates(const Array<float>& vectors, const Array<std::int64_t>& rows, const Array<float>& query,
                            std::size_t k, const std::optional<Array<std::int64_t>>& ids,
                            const std::optional<Array<std::uint16_t>>& alive, const std::string& instruction_set) {
    const care::Matrix d = matrix(vectors, "vectors"), q = matrix(query, "query");
    require(q.rows == 1 && q.width == d.width, "query must be [1, width of the vectors]");
    require(!ids || ids->ndim() == 1, "ids must be [n]");
    if (alive) require_allowed(*alive, d.rows);
    const std::int64_t* const row_data = rows.data();
    std::vector<std::int64_t> candidates;
    candidates.reserve(static_cast<std::size_t>(rows.size()));
    for (py::ssize_t i = 0; i < rows.size(); ++i) {
        std::int64_t row = row_data[i];
        if (ids && row >= 0) {
            require(row < ids->size(), "rows must have ids");
            row = ids->data()[row];
        }
        if (row < 0) continue;
        require(static_cast<std::size_t>(row) < d.rows, "ids must be rows of the vectors");
        if (alive && !(alive->data()[row / care::kBlock] >> (row % care::kBlock) & 1)) continue;
        candidates.push_back(row);
    }
    Array<double> scores({std::size_t{1}, k});
    Array<std::int64_t> best({std::size_t{1}, k}), rescored(1);
    *rescored.mutable_data() = static_cast<std::int64_t>(candidates.size());
    double* score_data = scores.mutable_data();
    std::int64_t* best_data = best.mutable_data();
    // Without releasing the GIL, which takes longer to get back than this takes.
    care::search_candidates(d, candidates.data(), candidates.size(), q.data, {k, 1, nullptr, instruction_set}, score_data,
                            best_data);
    return py::make_tuple(scores, best, rescored);
}

// The float32 nearest to each score, whatever rounding mode the caller has set.
Array<float> as_float32(const Array<double>& scores) {
    Array<float> rounded({scores.shape(0), scores.shape(1)});
    care::as_float32(scores.data(), static_cast<std::size_t>(scores.size()), rounded.mutable_data());
    return rounded;
}

bool finite(const float* begin, std::size_t count) {
    // As integers the compiler vectorises it: of absolute values, the bits of infinity and of NaN are the largest.
    std::int32_t largest = 0;
    for (std::size_t i = 0; i < count; ++i) {
        largest = std::max(largest, std::bit_cast<std::int32_t>(begin[i]) & 0x7fffffff);
    }
    return largest < 0x7f800000;
}

bool all_finite(const Array<float>& values) {
    const float* const begin = values.data();
    const std::size_t count = static_cast<std::size_t>(values.size());
    py::gil_scoped_release release;
    return finite(begin, count);
}

bool copied(py::handle values, Array<float> into) {
    if (!Array<float>::check_(values)) return false;
    const auto some = py::reinterpret_borrow<Array<float>>(values);
    const py::ssize_t count = into.size(), dimensions = some.ndim();
    if (dimensions < 1 || dimensions > 2 || some.size() != count || some.shape(dimensions - 1) != count) return false;
    if (!finite(some.data(), static_cast<std::size_t>(count))) return false;
    std::copy_n(some.data(), count, into.mutable_data());
    return true;
}

}  // namespace

PYBIND11_MODULE(_native, module) {
    module.doc() = "The native part of care_accel.";
    module.attr("BLOCK") = care::kBlock;
    module.attr("MAX_WIDTH") = care::kMaxWidth;
    module.attr("MIN_VALUE_SCALE") = care::kMinValueScale;
    module.def("block_bytes", &care::block_bytes, py::arg("width"), "Return the bytes of a block of int8 codes.");
    module.def("int4_block_bytes", &care::int4_block_bytes, py::arg("width"),
               "Return the bytes of a block of int4 codes.");
    module.def("residual_bytes", &care::residual_bytes, py::arg("width"),
               "Return the bytes of a vector's residual codes.");
    module.def("error_norm_count", &care::error_norm_count, py::arg("width"),
               "Return the number of error norms of a vector.");
    module.def("encode", &encode, py::arg("vectors").noconvert(), py::kw_only(), py::arg("first"),
               py::arg("mean").noconvert(), py::arg("exponent"), py::arg("threads"), py::arg("bytes").noconvert(),
               py::arg("norms").noconvert(), "Write the int8 codes of some rows; see csrc/include/care/codes.hpp.");
    module.def("encode_int4", &encode_int4, py::arg("vectors").noconvert(), py::kw_only(), py::arg("first"),
               py::arg("mean").noconvert(), py::arg("exponent"), py::arg("value_scales").noconvert(),
               py::arg("threads"), py::arg("bytes").noconvert(), py::arg("residuals").noconvert(),
               py::arg("norms").noconvert(),
               "Write the int4 and residual codes of some rows; see csrc/include/care/codes.hpp.");
    module.def("search", &search, py::arg("vectors").noconvert(), py::kw_only(), py::arg("bytes").noconvert(),
               py::arg("norms").noconvert(), py::arg("mean").noconvert(), py::arg("exponent"),
               py::arg("queries").noconvert(), py::arg("k"), py::arg("threads"),
               py::arg("allowed").noconvert() = py::none(), py::arg("instruction_set") = "",
               py::arg("int4_bytes").noconvert() = py::none(), py::arg("residuals").noconvert() = py::none(),
               py::arg("int4_norms").noconvert() = py::none(), py::arg("value_scales").noconvert() = py::none(),
               "Return (scores, ids, rescored) of the k best vectors of each query; see csrc/include/care/scan.hpp.");
    module.def("search_rows", &search_rows, py::arg("vectors").noconvert(), py::arg("rows").noconvert(), py::kw_only(),
               py::arg("queries").noconvert(), py::arg("k"), py::arg("threads"), py::arg("instruction_set") = "",
               "Return (scores, ids) of the k best of some vectors, in ascending order, all scored exactly.");
    module.def("search_candidates", &search_candidates, py::arg("vectors").noconvert(), py::arg("rows").noconvert(),
               py::arg("query").noconvert(), py::arg("k"), py::arg("ids").noconvert() = py::none(),
               py::arg("alive").noconvert() = py::none(), py::arg("instruction_set") = "",
               "Return (scores, ids, rescored) of the k best of some vectors for one query, all scored exactly.");
    module.def("copied", &copied, py::arg("values"), py::arg("into").noconvert(),
               "Copy a finite array [n] or [1, n] of float32 in C order; return false for anything else.");
    module.def("all_finite", &all_finite, py::arg("values").noconvert(), "Return whether all values are finite.");
    module.def("as_float32", &as_float32, py::arg("scores").noconvert(), "Return the float32 nearest to each score.");
    module.def("instruction_sets", &care::instruction_sets,
               "Return the instruction sets that this processor has a kernel for, the fastest first.");
    bind_encoder(module);
#ifdef CARE_CUDA
    module.attr("CUDA") = true;
    bind_cuda(module);
#else
    module.attr("CUDA") = false;
#endif
}
