// Checks of array arguments, shared by all bindings.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>

#include "care/codes.hpp"
#include "care/scan.hpp"

namespace py = pybind11;

// c_style without forcecast: another dtype or layout is an error, not a silent copy.
template <typename Element>
using Array = py::array_t<Element, py::array::c_style>;

inline void require(bool holds, const char* otherwise) {
    if (!holds) throw std::invalid_argument(otherwise);
}

inline care::Matrix matrix(const Array<float>& array, const char* name) {
    if (array.ndim() != 2) throw std::invalid_argument(std::string(name) + " must have two dimensions");
    return {array.data(), static_cast<std::size_t>(array.shape(0)), static_cast<std::size_t>(array.shape(1))};
}

// Int8 codes as Python stores them: bytes [blocks, block_bytes(width)]; norms [2 + error_norm_count(width), rows of all
// blocks]: scales, code norms, error norms.
class CodeArrays {
public:
    CodeArrays(const Array<std::uint8_t>& bytes, const Array<float>& norms, const Array<float>& mean, int exponent,
               std::size_t rows, std::size_t width) {
        require(width >= 1 && width <= care::kMaxWidth, "width must be 1 to 65536");
        require(bytes.ndim() == 2 && static_cast<std::size_t>(bytes.shape(0)) >= care::blocks(rows) &&
                    static_cast<std::size_t>(bytes.shape(1)) == care::block_bytes(width),
                "bytes must be [blocks, block_bytes(width)]");
        require(norms.ndim() == 2 && static_cast<std::size_t>(norms.shape(0)) == 2 + care::error_norm_count(width) &&
                    static_cast<std::size_t>(norms.shape(1)) >= care::blocks(rows) * care::kBlock,
                "norms must be [2 + error_norm_count(width), rows of all blocks]");
        require(mean.ndim() == 1 && static_cast<std::size_t>(mean.shape(0)) == width, "mean must be [width]");
        const std::size_t stride = static_cast<std::size_t>(norms.shape(1));
        for (std::size_t i = 0; i < care::error_norm_count(width); ++i) errors_[i] = norms.data() + (2 + i) * stride;
        codes_ = {bytes.data(), norms.data(), norms.data() + stride, errors_.data(), mean.data(), exponent};
    }
    CodeArrays(const CodeArrays&) = delete;
    CodeArrays& operator=(const CodeArrays&) = delete;

    const care::Codes& codes() const { return codes_; }

private:
    std::array<const float*, care::kMaxErrorNorms> errors_{};
    care::Codes codes_{};
};

// Int4 codes as Python stores them: bytes [blocks, int4_block_bytes(width)]; residuals [rows of all blocks,
// residual_bytes(width)]; norms [3, rows of all blocks]: scales, error norms, error norms with residual codes; value
// scales [width].
struct Int4Arrays {
    Int4Arrays(const Array<std::uint8_t>& bytes, const Array<std::uint8_t>& residuals, const Array<float>& norms,
               const Array<float>& value_scales, std::size_t rows, std::size_t width) {
        const std::size_t padded = care::blocks(rows) * care::kBlock;
        require(bytes.ndim() == 2 && static_cast<std::size_t>(bytes.shape(0)) >= care::blocks(rows) &&
                    static_cast<std::size_t>(bytes.shape(1)) == care::int4_block_bytes(width),
                "int4 bytes must be [blocks, int4_block_bytes(width)]");
        require(residuals.ndim() == 2 && static_cast<std::size_t>(residuals.shape(0)) >= padded &&
                    static_cast<std::size_t>(residuals.shape(1)) == care::residual_bytes(width),
                "residuals must be [rows of all blocks, residual_bytes(width)]");
        require(norms.ndim() == 2 && norms.shape(0) == 3 && static_cast<std::size_t>(norms.shape(1)) >= padded,
                "int4 norms must be [3, rows of all blocks]");
        require(value_scales.ndim() == 1 && static_cast<std::size_t>(value_scales.shape(0)) == width,
                "value scales must be [width]");
        // Codes of NaN would be undefined.
        require(std::all_of(value_scales.data(), value_scales.data() + width,
                            [](float scale) { return scale >= care::kMinValueScale && scale <= 1; }),
                "value scales must lie in [MIN_VALUE_SCALE, 1]");
        codes = {bytes.data(), norms.data(), norms.data() + norms.shape(1), residuals.data(),
                 norms.data() + 2 * norms.shape(1), value_scales.data()};
    }

    care::Int4Codes codes;
};

inline void require_allowed(const Array<std::uint16_t>& allowed, std::size_t rows) {
    require(allowed.ndim() == 1 && static_cast<std::size_t>(allowed.shape(0)) >= care::blocks(rows),
            "allowed must be [blocks]");
}
