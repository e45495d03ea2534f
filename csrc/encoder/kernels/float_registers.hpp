// Float32 arithmetic on registers. Built with -ffp-contract=off: only multiply_add fuses a product and a sum, so that a
// value does not depend on how the compiler treats the surrounding code.
#pragma once

#include <type_traits>

#include "../../scan/kernels/registers.hpp"

namespace care {
namespace {

CARE_INLINE Floats broadcast(float value) {
#if defined(__AVX512F__)
    return (Floats)_mm512_set1_ps(value);
#elif defined(__AVX__)
    return (Floats)_mm256_set1_ps(value);
#elif defined(__SSE2__)
    return (Floats)_mm_set1_ps(value);
#else
    return value - Floats{};
#endif
}

// a * b + c; fused if the instruction set has it.
CARE_INLINE Floats multiply_add(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
    return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

// Adds to each int32 lane the dot product of its two int16 values with the two of `word`.
CARE_INLINE void add_pairs(Ints& sums, Bytes values, std::int32_t word) {
#if defined(__AVX512VNNI__)
    sums = (Ints)_mm512_dpwssd_epi32((__m512i)sums, (__m512i)values, _mm512_set1_epi32(word));
#elif defined(__AVXVNNI__)
    sums = (Ints)_mm256_dpwssd_avx_epi32((__m256i)sums, (__m256i)values, _mm256_set1_epi32(word));
#elif defined(__AVX2__)
    sums += (Ints)_mm256_madd_epi16((__m256i)values, _mm256_set1_epi32(word));
#elif defined(__SSE2__)
    sums += (Ints)_mm_madd_epi16((__m128i)values, _mm_set1_epi32(word));
#else
    const Ints all = (Ints)values;
    sums += (all << 16 >> 16) * (word << 16 >> 16) + (all >> 16) * (word >> 16);
#endif
}

CARE_INLINE void store(float* to, Floats values) { std::memcpy(to, &values, sizeof values); }

// Stores the first `count` values, or all if there are fewer.
CARE_INLINE void store_first(float* to, std::size_t count, Floats values) {
    if (count >= kFloats) return store(to, values);
    for (std::size_t lane = 0; lane < count; ++lane) to[lane] = values[lane];
}

CARE_INLINE Floats larger(Floats a, Floats b) { return a > b ? a : b; }

CARE_INLINE Floats absolute(Floats values) { return (Floats)((Ints)values & 0x7fffffff); }

// Loads `count` floats; the other lanes are `otherwise`.
CARE_INLINE Floats load_first(const float* from, std::size_t count, float otherwise) {
    Floats values = broadcast(otherwise);
    std::memcpy(&values, from, count * sizeof(float));
    return values;
}

// Loads the first `count` values, or all if there are fewer; the other lanes are zero.
CARE_INLINE Floats load_up_to(const float* from, std::size_t count) {
    return count >= kFloats ? load<Floats>(from) : load_first(from, count, 0);
}

// The horizontal sum, as a tree.
CARE_INLINE float sum_of(Floats values) {
    const FourFloats four = reduce_to_four(values);
    return (four[0] + four[2]) + (four[1] + four[3]);
}

// Horizontal reductions of integers and of the largest value: of registers of four values, then of those.
template <typename Register, typename Combine>
CARE_INLINE auto reduced(Register values, const Combine& combine) {
    using Four [[gnu::vector_size(16)]] = std::remove_reference_t<decltype(values[0])>;
    Four parts[kRegisterBytes / sizeof(Four)];
    std::memcpy(parts, &values, sizeof values);
    Four four = parts[0];
#pragma GCC unroll 4
    for (std::size_t i = 1; i < kRegisterBytes / sizeof(Four); ++i) four = combine(four, parts[i]);
    four = combine(four, __builtin_shufflevector(four, four, 2, 3, 0, 1));
    return combine(four, __builtin_shufflevector(four, four, 1, 0, 3, 2))[0];
}

CARE_INLINE float largest_of(Floats values) {
    return reduced(values, [](auto a, auto b) __attribute__((always_inline)) { return a > b ? a : b; });
}

CARE_INLINE std::int32_t largest_of(Ints values) {
    return reduced(values, [](auto a, auto b) __attribute__((always_inline)) { return a > b ? a : b; });
}

CARE_INLINE std::int32_t sum_of(Ints values) {
    return reduced(values, [](auto a, auto b) __attribute__((always_inline)) { return a + b; });
}

// Added to a value below 2^22, it leaves the nearest integer, ties to even, in the last bits.
constexpr float kRoundingConstant = 0x1.8p23f;
constexpr std::int32_t kRoundingConstantBits = 0x4b400000;

// 2^n (1 + r + r^2 s(r)) with |r| <= ln 2 / 2 and s fitted so that it errs by 2^-24 of it at most, roundings included
// by 2^-23; 0 below -87, where float32 would lose its precision.
CARE_INLINE Floats exponential(Floats x) {
    constexpr float kCoefficients[] = {0x1.6db4e6p-10f, 0x1.123bep-7f, 0x1.55545ep-5f, 0x1.55548ep-3f, 0.5f};
    const Floats shifted = multiply_add(x, broadcast(0x1.715476p0f), broadcast(kRoundingConstant));
    const Floats n = shifted - kRoundingConstant;
    Floats r = multiply_add(n, broadcast(-0x1.62e4p-1f), x);  // ln 2 in two parts: n times the first is exact
    r = multiply_add(n, broadcast(-0x1.7f7d1cp-20f), r);
    Floats s = broadcast(kCoefficients[0]);
#pragma GCC unroll 8
    for (std::size_t i = 1; i < 5; ++i) s = multiply_add(s, r, broadcast(kCoefficients[i]));
    const Floats mantissa = multiply_add(s, r * r, r) + 1.0f;
    const Floats power = (Floats)(((Ints)shifted - kRoundingConstantBits + 127) << 23);
    return x > -87.0f ? mantissa * power : Floats{};
}

}  // namespace
}  // namespace care
