// Scalar quantisation of the vectors, with an error bound for every vector.
//
// Int8 codes
//
// Let u = 2^exponent be the unit of an index and mu the mean of its vectors. Both are fixed when the codes are made. In
// units of u a vector is
//
//     d = mu + s c + e          c: integers in [-127, 127];  s: one float32 scale per vector;  e: quantisation error
//
// A query is scaled by a power of two of its own, so that its largest value lies in [1/2, 1), and quantised in two
// terms:
//
//     q = s1 a + s2 b + f       a, b: integers in [-limit, limit];  f: remainder after two terms
//
// By the Cauchy-Schwarz inequality
//
//     q.d = q.mu + s (s1 a.c + s2 b.c) + s f.c + q.e
//     |q.d - q.mu - s (s1 a.c + s2 b.c)| <= |f| |s c| + |q| |e|                                        (1)
//
// With the first term alone, f is q - s1 a. This gives an upper bound of every score. A vector whose upper bound lies
// below the k-th best exact score found so far is not among the k best. All other vectors are rescored exactly, so no
// hit is missed. (1) holds for any mu: the mean makes e short, because it removes what all vectors have in common.
//
// Rounding
//
// a.c and b.c are exact integers: at most 127 * 255 * 65536 < 2^31. The rest of the left side of (1) is float32
// arithmetic: at most fourteen operations, conversions of the integers included, each with an error of 2^-24 of a result
// that is at most |q| (2 |s c| + |e|) or so. The bounds include 2^-19 of both for it. (Fourteen: a bound with the first term
// alone, to which s s2 b.c is added, and from which the difference of both |f| times |s c| is subtracted. The allowance in
// either |f| is the same, so the result still includes it.) Norms are summed in float64, in
// any order, enlarged by more than that sum can have lost (65536 * 2^-53 of it), and rounded up to float32. q.mu is
// summed in float64, and the exact score (score.hpp) is rounded too: a `slack` of 2^-34 |q| |mu| covers width * 2^-53
// of the same for any width up to 65536 (2^-19 covers it for the rest). Products below float32's normal range lose less
// than 2^-126 each, wherever the processor flushes them to zero: 2^-120 is added once.
//
// Int4 codes and 2-bit residual codes
//
// A large index has the same vectors once more in 4 bits per value, so that one query reads half as much. All of the
// above holds for the int4 codes, with another s and e, and with c one of the odd integers in [-15, 15]. Their e is
// some fifteen times as long, so many more vectors pass. For these, 2-bit residual codes refine the int4 codes:
//
//     d = mu + s c + s/4 r + e'     r: one of -3, -1, 1, 3;  |c + r/4| <= 15.75 sqrt(width)
//
// Values may differ much in size from one place to another. So int4 codes have a scale per value, too, v: numbers in
// [2^-16, 1], the same for all vectors of a part. They are codes of (d - mu) / v, value by value, and a query is q v:
//
//     d = mu + v (s c + s/4 r + e')        q.d - q.mu = (q v).(s c + s/4 r + e')
//
// This holds for any v, so (1) does with |q v| instead of |q|, where s, c, e and e' are those of (d - mu) / v. Only how tight
// it is depends on v. Two terms quantise q v to 2^-13 of its largest value, so |f| |s c| stays far below |q v| |e|. As v <= 1,
// |q v| is at most |q|. (d - mu) / v is below 2^97 (see encode()) times sqrt(width), so all results stay within float32. q v is
// exact in float64. (d - mu) / v rounds three times, by less than 2^-51 of it together: far below what the errors include for
// their sums in float32 (encode.cpp).
//
// The residual codes of a vector lie together, because they are read only of vectors that pass, and vectors in the order
// of the index, because many pass of random vectors. They lower a bound from int4 codes by |q| (|e| - |e'|) less
// s/4 (s1 a.r + s2 b.r). Of |q| (|e| - |e'|) only the part 1 - 2^-18 is subtracted: what the bound includes for the
// rounding of |q| |e| stays in it. Where |e| <= |e'| a bound is left as it is.
//
// a.r and b.r are exact integers, and the rest is float32: some ten operations more, twenty in all. |r/4| < |c|, so no result
// is above |q| (2 |s c| + |e|), and most are below |q| (|s c| + |e|): only s1 a, s1 a.c and the like can be up to twice as
// long as q, as |f| <= |q| with one term, too. Together they lose less than 23 times 2^-24 of |q| |s c| and 8 times 2^-24 of
// |q| |e|. A bound includes 32 times 2^-24 of |q| |e| and, as the norm of the code is not looked up, of |q| 15.75 sqrt(width) s.
#pragma once

#include <cstddef>
#include <cstdint>

namespace care {

inline constexpr std::size_t kMaxWidth = 65536;
// Layout: blocks of 16 vectors. For every group of 4 values a block has 64 bytes, 4 of each vector, so that one
// register holds the same 4 values of all of them. A code is stored as c + 128.
inline constexpr std::size_t kBlock = 16;
inline constexpr std::size_t kGroup = 4;
inline constexpr std::size_t kGroupBytes = kBlock * kGroup;
// A vector has one error norm for each of these prefixes that is shorter than it, and one for its whole width. A search
// over a prefix uses the first one that covers it.
inline constexpr std::size_t kPrefixes[] = {64, 128, 256, 512};
inline constexpr std::size_t kMaxErrorNorms = 5;

inline constexpr std::size_t groups(std::size_t width) { return (width + kGroup - 1) / kGroup; }
inline constexpr std::size_t blocks(std::size_t rows) { return (rows + kBlock - 1) / kBlock; }
inline constexpr std::size_t block_bytes(std::size_t width) { return groups(width) * kGroupBytes; }

// Number of error norms of a vector.
inline constexpr std::size_t error_norm_count(std::size_t width) {
    std::size_t count = 1;
    for (const std::size_t prefix : kPrefixes) count += prefix < width;
    return count;
}

// Index of the error norm that a search over the first `query_width` values uses.
inline constexpr std::size_t error_norm_of_prefix(std::size_t query_width, std::size_t width) {
    std::size_t which = 0;
    for (const std::size_t prefix : kPrefixes) which += prefix < width && prefix < query_width;
    return which;
}

// Int4 codes lie in the same blocks. A byte holds two codes of one vector: of an even group in its lower four bits, and
// of the odd group after it in its upper four bits. A code is stored as (c + 15) / 2.
inline constexpr int kMaxInt4 = 15;
inline constexpr float kMinValueScale = 0x1p-16f;
inline constexpr std::size_t group_pairs(std::size_t width) { return (groups(width) + 1) / 2; }
inline constexpr std::size_t int4_block_bytes(std::size_t width) { return group_pairs(width) * kGroupBytes; }

// The residual codes of a vector are n = residual_bytes(width) bytes, whole cache lines. Byte j holds those of the
// values j, j + n, j + 2n and j + 3n, from its lowest bits on. A code is stored as (r + 3) / 2.
inline constexpr int kMaxResidual = 3;
inline constexpr std::size_t kResidualsPerByte = 4;
inline constexpr std::size_t residual_bytes(std::size_t width) { return (width + 255) / 256 * 64; }

// Arrays cover whole blocks, blocks(rows) of them. What belongs to no vector never becomes a hit.
struct Int4Codes {
    const std::uint8_t* bytes;      // [blocks][group_pairs(width)][kBlock][kGroup], 64-byte aligned
    const float* scales;            // [blocks * kBlock], s
    const float* errors;            // [blocks * kBlock], not below |e| over the whole width
    const std::uint8_t* residuals;  // [blocks * kBlock][residual_bytes(width)]
    const float* residual_errors;   // [blocks * kBlock], not below |e'|
    const float* value_scales;      // [width], v
};

// The quantised vectors of an index.
struct Codes {
    const std::uint8_t* bytes;        // [blocks][groups(width)][kBlock][kGroup], 64-byte aligned
    const float* scales;              // [blocks * kBlock], s
    const float* code_norms;          // [blocks * kBlock], not below |s c|
    const float* const* errors;       // [error_norm_count(width)] of [blocks * kBlock], not below |e| over each prefix
    const float* mean;                // [width], mu, not in units of u
    int exponent;                     // of the unit
    const Int4Codes* int4 = nullptr;  // null if the index has none
};

struct MutableCodes {
    std::uint8_t* bytes;
    float* scales;
    float* code_norms;
    float* const* errors;
};

struct MutableInt4Codes {
    std::uint8_t* bytes;
    float* scales;
    float* errors;
    std::uint8_t* residuals;
    float* residual_errors;
};

// Quantises `count` rows of `width` finite float32 values; they become rows `first`, `first + 1`, ... of the index.
// Values must be below 2^(exponent + 80).
void encode(const float* vectors, std::size_t first, std::size_t count, std::size_t width, const float* mean,
            int exponent, std::size_t threads, const MutableCodes& codes);

// The same to int4 codes and residual codes. Scales of values lie in [kMinValueScale, 1].
void encode_int4(const float* vectors, std::size_t first, std::size_t count, std::size_t width, const float* mean,
                 int exponent, const float* value_scales, std::size_t threads, const MutableInt4Codes& codes);

}  // namespace care
