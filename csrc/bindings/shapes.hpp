// What every binding checks.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <array>
#include <stdexcept>
#include <string>

#include "care/codes.hpp"
#include "care/scan.hpp"

namespace py = pybind11;

// c_style without forcecast: another dtype or layout is the caller's mistake, not a silent copy.
template <typename Element>
using Array = py::array_t<Element, py::array::c_style>;

inline void require(bool holds, const char* otherwise) {
    if (!holds) throw std::invalid_argument(otherwise);
}

inline care::Matrix matrix(const Array<float>& array, const char* name) {
    if (array.ndim() != 2) throw std::invalid_argument(std::string(name) + " must have two dimensions");
    return {array.data(), static_cast<std::size_t>(array.shape(0)), static_cast<std::size_t>(array.shape(1))};
}

// Codes as Python keeps them: bytes [blocks, block_bytes(width)], norms [2 + norms(width), rows of all blocks].
class CodeArrays {
public:
    CodeArrays(const Array<std::uint8_t>& bytes, const Array<float>& norms, const Array<float>& mean, int exponent,
               std::size_t rows, std::size_t width) {
        require(width >= 1 && width <= care::kMostWidth, "width must be 1 to 65536");
        require(bytes.ndim() == 2 && static_cast<std::size_t>(bytes.shape(0)) >= care::blocks(rows) &&
                    static_cast<std::size_t>(bytes.shape(1)) == care::block_bytes(width),
                "bytes must be [blocks, bytes of a block]");
        require(norms.ndim() == 2 && static_cast<std::size_t>(norms.shape(0)) == 2 + care::norms(width) &&
                    static_cast<std::size_t>(norms.shape(1)) >= care::blocks(rows) * care::kBlock,
                "norms must be [2 + norms, rows of all blocks]");
        require(mean.ndim() == 1 && static_cast<std::size_t>(mean.shape(0)) == width, "mean must be [width]");
        const std::size_t stride = static_cast<std::size_t>(norms.shape(1));
        for (std::size_t i = 0; i < care::norms(width); ++i) errors_[i] = norms.data() + (2 + i) * stride;
        codes_ = {bytes.data(), norms.data(), norms.data() + stride, errors_.data(), mean.data(), exponent};
    }
    CodeArrays(const CodeArrays&) = delete;
    CodeArrays& operator=(const CodeArrays&) = delete;

    const care::Codes& codes() const { return codes_; }

private:
    std::array<const float*, care::kMostNorms> errors_{};
    care::Codes codes_{};
};

// Halves: bytes [blocks, half_block_bytes(width)], quarters [rows of all blocks, quarter_bytes(width)], norms [3, rows of all
// blocks].
struct HalfArrays {
    HalfArrays(const Array<std::uint8_t>& bytes, const Array<std::uint8_t>& quarters, const Array<float>& norms,
               std::size_t rows, std::size_t width) {
        const std::size_t padded = care::blocks(rows) * care::kBlock;
        require(bytes.ndim() == 2 && static_cast<std::size_t>(bytes.shape(0)) >= care::blocks(rows) &&
                    static_cast<std::size_t>(bytes.shape(1)) == care::half_block_bytes(width),
                "bytes of halves must be [blocks, bytes of a block of halves]");
        require(quarters.ndim() == 2 && static_cast<std::size_t>(quarters.shape(0)) >= padded &&
                    static_cast<std::size_t>(quarters.shape(1)) == care::quarter_bytes(width),
                "quarters must be [rows of all blocks, bytes of a row of quarters]");
        require(norms.ndim() == 2 && norms.shape(0) == 3 && static_cast<std::size_t>(norms.shape(1)) >= padded,
                "norms of halves must be [3, rows of all blocks]");
        halves = {bytes.data(), norms.data(), norms.data() + norms.shape(1), quarters.data(),
                  norms.data() + 2 * norms.shape(1)};
    }

    care::Halves halves;
};

inline void require_allowed(const Array<std::uint16_t>& allowed, std::size_t rows) {
    require(allowed.ndim() == 1 && static_cast<std::size_t>(allowed.shape(0)) >= care::blocks(rows),
            "allowed must be [blocks]");
}
