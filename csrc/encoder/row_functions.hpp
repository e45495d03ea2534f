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

// The largest and the third largest value of `width`, without their signs.
CARE_INLINE void find_largest(const float* row, std::size_t width, float& largest, float& third) {
    using Four [[gnu::vector_size(16)]] = std::int32_t;
    constexpr std::size_t kParts = kRegisterBytes / sizeof(Four);
    // Compared as integers, NaN is larger than all numbers.
    LargestThree<Ints> lanes;
    for (std::size_t j = 0; j < width; j += kFloats) lanes.insert(load<Ints>(row + j) & 0x7fffffff);
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
    const std::int32_t first_bits = most.first[0], third_bits = most.third[0];
    std::memcpy(&largest, &first_bits, sizeof largest);
    std::memcpy(&third, &third_bits, sizeof third);
}

// One bit per lane, set if its code lies outside [-127, 127].
CARE_INLINE std::uint32_t outlier_lanes(Ints codes) {
#if defined(__AVX512F__)
    return _mm512_cmpgt_epu32_mask((__m512i)(codes + 127), _mm512_set1_epi32(254));
#else
    const Ints beyond = (codes > 127) | (codes < -127);
#if defined(__AVX__)
    return static_cast<std::uint32_t>(_mm256_movemask_ps((__m256)beyond));
#elif defined(__SSE2__)
    return static_cast<std::uint32_t>(_mm_movemask_ps((__m128)beyond));
#else
    std::uint32_t bits = 0;
    for (std::size_t lane = 0; lane < kFloats; ++lane) bits |= (beyond[lane] & 1u) << lane;
    return bits;
#endif
#endif
}

void quantize(const float* row, std::size_t width, std::int8_t* codes, RowCode* code) {
    using Chars [[gnu::vector_size(kFloats)]] = std::int8_t;
    float largest, third;
    find_largest(row, width, largest, third);
    *code = {};
    const float part = largest / 128.0f, unit = part < third ? third : part;
    code->scale = unit / 127.0f;
    if (!(largest <= 0x1.fffffep127f)) {
        code->scale = largest;  // an infinity or NaN, times sums of 0
        std::memset(codes, 0, rounded_to(width, kFloats));
        return;
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
        // No more than kOutliers values exceed the third largest. The bound is stated all the same: without it GCC 12 at
        // -O2 under the thread sanitizer wrote beyond the outliers.
        for (std::uint32_t lanes = outlier_lanes(integers); lanes != 0 && outliers < kOutliers; lanes &= lanes - 1) {
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
}

}  // namespace
}  // namespace care
