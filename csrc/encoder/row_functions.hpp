// Operations on single rows: norms and quantisation. Included by kernel_source.cpp alone.
#pragma once

#include "float_registers.hpp"
#include "kernel.hpp"

namespace care {
namespace {

void add_norm(const RowNorm& norm, const float* a, const float* b, float* sums, float* to) {
    const std::size_t width = norm.width, all = rounded_to(width, kBlock);
    const std::size_t whole = width / kFloats * kFloats, rest = width - whole;
    Floats sum{};
    for (std::size_t j = 0; j < all; j += kFloats) {
        Floats values = load<Floats>(a + j);
        if (b) values += load<Floats>(b + j);
        store(sums + j, values);
        sum += values;  // the padding is zero
    }
    const float mean = norm.kind == NormKind::kLayer ? sum_of(sum) / static_cast<float>(width) : 0.0f;
    Floats squares{};
    for (std::size_t j = 0; j < whole; j += kFloats) {
        const Floats difference = load<Floats>(sums + j) - mean;
        squares = multiply_add(difference, difference, squares);
    }
    if (rest > 0) {
        const Floats difference = load_first(sums + whole, rest, mean) - mean;
        squares = multiply_add(difference, difference, squares);
    }
    const float variance = sum_of(squares) / static_cast<float>(width);
    const float inverse = 1.0f / __builtin_sqrtf(variance + norm.epsilon);
    for (std::size_t j = 0; j < all; j += kFloats) {
        const Floats difference = (load<Floats>(sums + j) - mean) * inverse;
        store(to + j, multiply_add(difference, load<Floats>(norm.weights + j), load<Floats>(norm.biases + j)));
    }
}

void quantize(const float* row, std::size_t width, std::int8_t* codes, float* scale, std::int32_t* correction) {
    using Chars [[gnu::vector_size(kFloats)]] = std::int8_t;
    // Compared as integers, NaN is larger than all numbers, so that it reaches every output.
    Ints largest{};
    for (std::size_t j = 0; j < width; j += kFloats) {
        const Ints size = load<Ints>(row + j) & 0x7fffffff;
        largest = size > largest ? size : largest;
    }
    const std::int32_t bits = largest_of(largest);
    float largest_value;
    std::memcpy(&largest_value, &bits, sizeof largest_value);
    *scale = largest_value / 127.0f;
    const float inverse = largest_value >= 0x1p-100f ? 127.0f / largest_value : 0.0f;
    Ints sum{};
    for (std::size_t j = 0; j < width; j += kFloats) {
        const Floats scaled = load<Floats>(row + j) * inverse + kRoundingConstant;
        const Ints integers = (Ints)scaled - kRoundingConstantBits;
        sum += integers;
        const Chars small = __builtin_convertvector(integers, Chars);
        std::memcpy(codes + j, &small, sizeof small);
    }
    *correction = 128 * sum_of(sum);
}

}  // namespace
}  // namespace care
