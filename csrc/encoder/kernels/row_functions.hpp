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

template <typename Integers>
CARE_INLINE Integers larger_of(Integers a, Integers b) {
    return a > b ? a : b;
}

template <typename Integers>
CARE_INLINE Integers smaller_of(Integers a, Integers b) {
    return a > b ? b : a;
}

// The three largest values of each lane, in order.
template <typename Integers>
struct LargestThree {
    Integers first{}, second{}, third{};

    CARE_INLINE void insert(Integers values) {
        third = larger_of(third, smaller_of(second, values));
        second = larger_of(second, smaller_of(first, values));
        first = larger_of(first, values);
    }
    CARE_INLINE void insert(const LargestThree& more) {
        third = larger_of(larger_of(third, more.third),
                          larger_of(smaller_of(first, more.second), smaller_of(second, more.first)));
        second = larger_of(larger_of(second, more.second), smaller_of(first, more.first));
        first = larger_of(first, more.first);
    }
};

// The three largest values of all lanes.
CARE_INLINE LargestThree<Ints> across_lanes(const LargestThree<Ints>& lanes) {
    using Four [[gnu::vector_size(16)]] = std::int32_t;
    constexpr std::size_t kParts = kRegisterBytes / sizeof(Four);
    Four firsts[kParts], seconds[kParts], thirds[kParts];
    std::memcpy(firsts, &lanes.first, sizeof firsts);
    std::memcpy(seconds, &lanes.second, sizeof seconds);
    std::memcpy(thirds, &lanes.third, sizeof thirds);
    LargestThree<Four> most{firsts[0], seconds[0], thirds[0]};
#pragma GCC unroll 4
    for (std::size_t i = 1; i < kParts; ++i) most.insert({firsts[i], seconds[i], thirds[i]});
    const auto turned = [](Four v) { return __builtin_shufflevector(v, v, 2, 3, 0, 1); };
    most.insert({turned(most.first), turned(most.second), turned(most.third)});
    const auto swapped = [](Four v) { return __builtin_shufflevector(v, v, 1, 0, 3, 2); };
    most.insert({swapped(most.first), swapped(most.second), swapped(most.third)});
    return {Ints{} + most.first[0], Ints{} + most.second[0], Ints{} + most.third[0]};
}

// Sizes of values as integers: NaN is larger than all numbers.
CARE_INLINE Ints sizes_at(const float* from) { return load<Ints>(from) & 0x7fffffff; }

// The three largest sizes of a row.
CARE_INLINE LargestThree<Ints> largest_sizes(const float* row, std::size_t width) {
    LargestThree<Ints> lanes;
    for (std::size_t j = 0; j < width; j += kFloats) lanes.insert(sizes_at(row + j));
    return across_lanes(lanes);
}

// The same in a third of the time, unless two of the three are in one of the parts that the row is dealt out to: then
// the second and third are too small.
CARE_INLINE LargestThree<Ints> largest_of_parts(const float* row, std::size_t width) {
    constexpr std::size_t kParts = 4;
    Ints parts[kParts]{};
    std::size_t j = 0;
    for (; j + kParts * kFloats <= width; j += kParts * kFloats) {
#pragma GCC unroll 4
        for (std::size_t i = 0; i < kParts; ++i) parts[i] = larger_of(parts[i], sizes_at(row + j + i * kFloats));
    }
    for (; j < width; j += kFloats) parts[0] = larger_of(parts[0], sizes_at(row + j));
    LargestThree<Ints> lanes;
#pragma GCC unroll 4
    for (std::size_t i = 0; i < kParts; ++i) lanes.insert(parts[i]);
    return across_lanes(lanes);
}

// One bit per lane, set if a > b.
CARE_INLINE std::uint32_t larger_lanes(Ints a, Ints b) {
#if defined(__AVX512F__)
    return _mm512_cmpgt_epi32_mask((__m512i)a, (__m512i)b);
#else
    const Ints is = a > b;
#if defined(__AVX__)
    return static_cast<std::uint32_t>(_mm256_movemask_ps((__m256)is));
#elif defined(__SSE2__)
    return static_cast<std::uint32_t>(_mm_movemask_ps((__m128)is));
#else
    std::uint32_t bits = 0;
    for (std::size_t lane = 0; lane < kFloats; ++lane) bits |= (is[lane] & 1u) << lane;
    return bits;
#endif
#endif
}

// Quantises a row with these largest values. Returns false if more than kOutliers exceed the third of them.
CARE_INLINE bool quantize_by(const LargestThree<Ints>& found, const float* row, std::size_t width, std::int8_t* codes,
                             RowCode* code) {
    using Chars [[gnu::vector_size(kFloats)]] = std::int8_t;
    const float largest = ((Floats)found.first)[0], third = ((Floats)found.third)[0];
    *code = {};
    const float part = largest / 128.0f, unit = part < third ? third : part;
    code->scale = unit / 127.0f;
    if (!(largest <= 0x1.fffffep127f)) {
        code->scale = largest;  // an infinity or NaN, times sums of 0
        std::memset(codes, 0, rounded_to(width, kFloats));
        return true;
    }
    const float inverse = unit >= 0x1p-100f ? 127.0f / unit : 0.0f;
    Ints sum{};
    std::size_t outliers = 0;
    for (std::size_t j = 0; j < width; j += kFloats) {
        const Floats scaled = load<Floats>(row + j) * inverse + kRoundingConstant;
        const Ints integers = (Ints)scaled - kRoundingConstantBits;
        sum += integers;
        const Chars small = __builtin_convertvector(integers, Chars);
        std::memcpy(codes + j, &small, sizeof small);
        for (std::uint32_t lanes = larger_lanes(sizes_at(row + j), found.third); lanes != 0; lanes &= lanes - 1) {
            if (outliers == kOutliers) return false;
            const std::size_t at = j + static_cast<std::size_t>(__builtin_ctz(lanes));
            const float nearest = (row[at] * inverse + kRoundingConstant) - kRoundingConstant;
            const std::int32_t whole = static_cast<std::int32_t>(nearest);
            const std::int32_t low = ((whole + 64) & 127) - 64, high = (whole - low) >> kHighBits;
            codes[at] = static_cast<std::int8_t>(low);
            code->outlier_groups[outliers] = static_cast<std::uint32_t>(at / kGroup);
            code->outlier_words[outliers++] = static_cast<std::int32_t>((high & 255u) << at % kGroup * 8);
        }
    }
    code->correction = 128 * sum_of(sum);
    return true;
}

void quantize(const float* row, std::size_t width, std::int8_t* codes, RowCode* code) {
    if (quantize_by(largest_of_parts(row, width), row, width, codes, code)) return;
    quantize_by(largest_sizes(row, width), row, width, codes, code);
}

}  // namespace
}  // namespace care
