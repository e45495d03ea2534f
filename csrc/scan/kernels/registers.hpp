// Registers of the instruction set that a source is built for, and operations that C++ cannot express.
//
// Sources that include this are built once for each instruction set. Everything here is always inlined or has internal
// linkage: of a shared function the linker would keep one copy for all processors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "care/codes.hpp"
#include "care/score.hpp"

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

namespace care {
namespace {

#if defined(__AVX512F__)
constexpr std::size_t kRegisterBytes = 64;
#elif defined(__AVX__)
constexpr std::size_t kRegisterBytes = 32;
#else
constexpr std::size_t kRegisterBytes = 16;
#endif

using Bytes [[gnu::vector_size(kRegisterBytes)]] = std::uint8_t;
using Ints [[gnu::vector_size(kRegisterBytes)]] = std::int32_t;
using Floats [[gnu::vector_size(kRegisterBytes)]] = float;
using Doubles [[gnu::vector_size(kRegisterBytes)]] = double;
// As many floats as there are doubles in a register.
using NarrowFloats [[gnu::vector_size(kRegisterBytes / 2)]] = float;

// Registers that hold a group of values, or one float32, of each vector of a block.
constexpr std::size_t kBlockRegisters = kGroupBytes / kRegisterBytes;
constexpr std::size_t kFloats = kRegisterBytes / sizeof(float);
constexpr std::size_t kDoubles = kRegisterBytes / sizeof(double);

// Software prefetch distance. Hardware prefetchers stop at the end of a page.
constexpr std::size_t kPrefetchBytes = 16384;
constexpr std::size_t kCacheLineBytes = 64;

// An unaligned load.
template <typename Register, typename Element>
CARE_INLINE Register load(const Element* from) {
    Register to;
    std::memcpy(&to, from, sizeof to);
    return to;
}

// Adds to each float64 lane the product of a float32 value and a value of `others`, which is exact: a fused
// multiply-add rounds like a product and a sum.
CARE_INLINE void add_exact_products(Doubles& sums, const float* values, Doubles others) {
#if defined(__AVX512F__)
    // All lanes: of the call without a mask gcc 12 warns that it reads a value that was not set.
    const __m512d wide = _mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(values));
    sums = (Doubles)_mm512_fmadd_pd(wide, (__m512d)others, (__m512d)sums);
#elif defined(__AVX2__) && defined(__FMA__)
    sums = (Doubles)_mm256_fmadd_pd(_mm256_cvtps_pd(_mm_loadu_ps(values)), (__m256d)others, (__m256d)sums);
#else
    sums += __builtin_convertvector(load<NarrowFloats>(values), Doubles) * others;
#endif
}

// Adds to each int32 lane the dot product of its four unsigned bytes with the four signed bytes of `query` in that
// lane.
CARE_INLINE void add_products(Ints& sums, Bytes codes, Bytes query) {
#if defined(__AVX512VNNI__)
    sums = (Ints)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)codes, (__m512i)query);
#elif defined(__AVXVNNI__)
    sums = (Ints)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)codes, (__m256i)query);
#elif defined(__AVX2__)
    // Pairs are added in 16 bits and would saturate beyond 255 * 64 * 2: hence kQueryCodeLimit.
    const __m256i pairs = _mm256_maddubs_epi16((__m256i)codes, (__m256i)query);
    sums += (Ints)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#elif defined(__SSE2__)
    const __m128i values = (__m128i)query, zero = _mm_setzero_si128(), signs = _mm_cmpgt_epi8(zero, values);
    const __m128 low = (__m128)_mm_madd_epi16(_mm_unpacklo_epi8((__m128i)codes, zero), _mm_unpacklo_epi8(values, signs));
    const __m128 high = (__m128)_mm_madd_epi16(_mm_unpackhi_epi8((__m128i)codes, zero), _mm_unpackhi_epi8(values, signs));
    sums += (Ints)_mm_shuffle_ps(low, high, 0x88) + (Ints)_mm_shuffle_ps(low, high, 0xdd);
#elif defined(__ARM_FEATURE_DOTPROD)
    // Signed by signed: 128 is subtracted from the codes, and its product is added back because `correction` includes
    // it.
    const int8x16_t values = (int8x16_t)query;
    const int32x4_t centred = vdotq_s32((int32x4_t)sums, (int8x16_t)(codes ^ 0x80), values);
    sums = (Ints)vdotq_s32(vdotq_s32(centred, vdupq_n_s8(64), values), vdupq_n_s8(64), values);
#else
    for (std::size_t j = 0; j < kRegisterBytes; ++j) sums[j / kGroup] += codes[j] * static_cast<std::int8_t>(query[j]);
#endif
}

// The same with the same four bytes of a query in all lanes.
CARE_INLINE void add_products(Ints& sums, Bytes codes, std::int32_t query) {
    add_products(sums, codes, (Bytes)(Ints{} + query));
}

// Shifts bytes to the right. Every processor can shift 16-bit words: upper bits of a byte come from its neighbour, and
// the caller masks them.
template <int Bits>
CARE_INLINE Bytes shift_right(Bytes bytes) {
    using Words [[gnu::vector_size(kRegisterBytes)]] = std::uint16_t;
    return (Bytes)((Words)bytes >> Bits);
}

// Query codes lie in [-kQueryCodeLimit, kQueryCodeLimit].
#if defined(__AVX2__) && !defined(__AVX512VNNI__) && !defined(__AVXVNNI__)
constexpr int kQueryCodeLimit = 63;
#else
constexpr int kQueryCodeLimit = 127;
#endif

// One bit per lane, set if its bound is not below the threshold; set for NaN too.
CARE_INLINE std::uint32_t at_least(Floats bounds, float threshold) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)bounds, _mm512_set1_ps(threshold), _CMP_NLT_UQ);
#elif defined(__AVX__)
    return _mm256_movemask_ps(_mm256_cmp_ps((__m256)bounds, _mm256_set1_ps(threshold), _CMP_NLT_UQ));
#elif defined(__SSE2__)
    return _mm_movemask_ps(_mm_cmpnlt_ps((__m128)bounds, _mm_set1_ps(threshold)));
#else
    std::uint32_t bits = 0;
    for (std::size_t lane = 0; lane < kFloats; ++lane) bits |= std::uint32_t{!(bounds[lane] < threshold)} << lane;
    return bits;
#endif
}

// Transposes a square of registers: log2(size) rounds of interleaving each register with the one half a square below.
CARE_INLINE void transpose(Floats (&square)[kFloats]) {
    [&]<std::size_t... Lane>(std::index_sequence<Lane...>) __attribute__((always_inline)) {
#pragma GCC unroll 8
        for (std::size_t size = kFloats; size > 1; size /= 2) {
            Floats next[kFloats];
#pragma GCC unroll 16
            for (std::size_t i = 0; i < kFloats / 2; ++i) {
                const Floats a = square[i], b = square[i + kFloats / 2];
                next[2 * i] = __builtin_shufflevector(a, b, (Lane / 2 + Lane % 2 * kFloats)...);
                next[2 * i + 1] = __builtin_shufflevector(a, b, ((Lane + kFloats) / 2 + Lane % 2 * kFloats)...);
            }
#pragma GCC unroll 16
            for (std::size_t i = 0; i < kFloats; ++i) square[i] = next[i];
        }
    }(std::make_index_sequence<kFloats>{});
}

using FourFloats [[gnu::vector_size(16)]] = float;

// Adds the parts of a register, down to four values.
CARE_INLINE FourFloats reduce_to_four(Floats values) {
    FourFloats parts[kRegisterBytes / sizeof(FourFloats)];
    std::memcpy(parts, &values, sizeof values);
    FourFloats sum = parts[0];
#pragma GCC unroll 4
    for (std::size_t i = 1; i < kRegisterBytes / sizeof(FourFloats); ++i) sum += parts[i];
    return sum;
}

// The horizontal sums of four registers.
CARE_INLINE FourFloats horizontal_sums(Floats a, Floats b, Floats c, Floats d) {
    const FourFloats w = reduce_to_four(a), x = reduce_to_four(b), y = reduce_to_four(c), z = reduce_to_four(d);
    const FourFloats low = __builtin_shufflevector(w, x, 0, 4, 1, 5) + __builtin_shufflevector(w, x, 2, 6, 3, 7);
    const FourFloats high = __builtin_shufflevector(y, z, 0, 4, 1, 5) + __builtin_shufflevector(y, z, 2, 6, 3, 7);
    return __builtin_shufflevector(low, high, 0, 1, 4, 5) + __builtin_shufflevector(low, high, 2, 3, 6, 7);
}

using FourInts [[gnu::vector_size(16)]] = std::int32_t;

// The sums of two registers each, in the order a, b, a, b of every 16 bytes: halves a row of values to be added.
template <std::size_t Apart>
CARE_INLINE Ints add_neighbours(Ints a, Ints b) {
    return [&]<std::size_t... Lane>(std::index_sequence<Lane...>) __attribute__((always_inline)) {
        // Of each 16 bytes the lower and the upper half, in runs of `Apart` values of either register.
        constexpr auto from = [](std::size_t lane) {
            const std::size_t place = lane % 4, other = place / Apart % 2;
            return lane - place + (Apart == 1 ? place / 2 : place % 2) + other * kFloats;
        };
        return __builtin_shufflevector(a, b, from(Lane)...) + __builtin_shufflevector(a, b, (from(Lane) + 2)...);
    }(std::make_index_sequence<kFloats>{});
}

// The horizontal sums of four registers.
CARE_INLINE FourInts horizontal_sums(Ints a, Ints b, Ints c, Ints d) {
    const Ints sums = add_neighbours<2>(add_neighbours<1>(a, b), add_neighbours<1>(c, d));
    FourInts parts[kRegisterBytes / sizeof(FourInts)];
    std::memcpy(parts, &sums, sizeof sums);
    FourInts sum = parts[0];
#pragma GCC unroll 4
    for (std::size_t i = 1; i < kRegisterBytes / sizeof(FourInts); ++i) sum += parts[i];
    return sum;
}

}  // namespace
}  // namespace care
