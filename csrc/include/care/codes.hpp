// Codes: every vector in one byte a value, with a bound on what they leave out.
//
// Let u = 2^exponent be the unit of an index and mu its mean, both frozen when the codes were made. In units of u a
// vector is coded as
//
//     d = mu + s c + e          c: integers in [-127, 127];  s: one float32 scale a vector;  e: what is left
//
// and a query, scaled by its own power of two so that its largest value lies in [1/2, 1), as
//
//     q = s1 a + s2 b + f       a, b: integers in [-limit, limit];  f: what two terms leave
//
// so that by Cauchy and Schwarz
//
//     q.d = q.mu + s (s1 a.c + s2 b.c) + s f.c + q.e
//     |q.d - q.mu - s (s1 a.c + s2 b.c)| <= |f| |s c| + |q| |e|                                        (1)
//
// With the first term alone, f is q - s1 a. A vector whose upper bound lies below the k-th best exact score known
// so far is not among the k best: everything else is scored exactly, so nothing can be missed. mu may be any
// vector, it only decides how large e becomes: it takes off what all vectors have in common.
//
// Rounding. a.c and b.c are exact integers: at most 127 * 255 * 65536 < 2^31. The rest of the left side of (1) is
// float32 arithmetic: each of its fewer than ten operations, conversions of the integers among them, errs by 2^-24
// of a result that is at most |q| (2 |s c| + |e|) or so. Bounds carry 2^-19 of both for it. Norms are summed in
// float64, in any order, enlarged by more than that sum can have lost (65536 * 2^-53 of it), and rounded up to
// float32. q.mu is summed in float64, and the exact score (score.hpp) is rounded too: a `slack` of 2^-34 |q| |mu|
// covers width * 2^-53 of the same for any width up to 65536 (2^-19 covers it for the rest). Products that fall
// below float32's normal range lose less than 2^-126 each, wherever the processor flushes them: 2^-120 is added once.
//
// Halves: the same vectors once more in half a byte a value, so that one query reads half as much of a large index. All of
// the above holds for them with another s and e, and with c one of the odd integers in [-15, 15]. Their e is some fifteen
// times as long, so that many more vectors are left. Quarters say more of those: in a quarter of a byte a value
//
//     d = mu + s c + s/4 r + e'     r: one of -3, -1, 1, 3; and |c + r/4| is at most 15.75 times the root of the width
//
// A vector's quarters lie together, to be read for it alone; and a bound from halves is lowered by |q| (|e| - |e'|) less
// s/4 (s1 a.r + s2 b.r). Of the first only the part 1 - 2^-18 is taken off: what the bound has for the rounding of |q| |e|
// stays in it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace care {

inline constexpr std::size_t kMostWidth = 65536;
// Vectors are coded in blocks: for every four values 64 bytes, four of each of sixteen vectors, so that one
// register holds the same four values of all of them. A code is stored as c + 128.
inline constexpr std::size_t kBlock = 16;
inline constexpr std::size_t kGroup = 4;
inline constexpr std::size_t kGroupBytes = kBlock * kGroup;
// A search over a prefix of the values uses the error norm of the first of these widths that is not below it.
inline constexpr std::size_t kPrefixes[] = {64, 128, 256, 512};
inline constexpr std::size_t kMostNorms = 5;

inline constexpr std::size_t groups(std::size_t width) { return (width + kGroup - 1) / kGroup; }
inline constexpr std::size_t blocks(std::size_t rows) { return (rows + kBlock - 1) / kBlock; }
inline constexpr std::size_t block_bytes(std::size_t width) { return groups(width) * kGroupBytes; }

// How many error norms a vector of this width has: one for each prefix below it, one for all of it.
inline constexpr std::size_t norms(std::size_t width) {
    std::size_t count = 1;
    for (const std::size_t prefix : kPrefixes) count += prefix < width;
    return count;
}

// Which of them a search over the first `searched` values uses.
inline constexpr std::size_t norm_of_prefix(std::size_t searched, std::size_t width) {
    std::size_t which = 0;
    for (const std::size_t prefix : kPrefixes) which += prefix < width && prefix < searched;
    return which;
}

// Halves lie in the same blocks, two groups of a vector's values in the bytes of one: the even one in the lower four bits, the
// odd one in the upper. A half is stored as (c + 15) / 2.
inline constexpr int kMostHalf = 15;
inline constexpr std::size_t pairs(std::size_t width) { return (groups(width) + 1) / 2; }
inline constexpr std::size_t half_block_bytes(std::size_t width) { return pairs(width) * kGroupBytes; }

// Byte j of a vector's quarters has those of the values j, j + n, j + 2n and j + 3n, n bytes in all, from its lowest bits on, each
// stored as (r + 3) / 2. Whole cache lines.
inline constexpr int kMostQuarter = 3;
inline constexpr std::size_t kQuarters = 4;
inline constexpr std::size_t quarter_bytes(std::size_t width) { return (width + 255) / 256 * 64; }

// Arrays are as long as blocks(rows) asks.
struct Halves {
    const std::uint8_t* bytes;  // [blocks][pairs(width)][kBlock][kGroup], from an address that 64 divides
    const float* scales;        // [blocks * kBlock], s
    const float* errors;        // [blocks * kBlock], not below |e| over all values
    const std::uint8_t* quarters;  // [blocks * kBlock][quarter_bytes(width)]
    const float* rest_errors;      // [blocks * kBlock], not below |e'|
};

// The coded vectors of an index. Arrays are as long as blocks(rows) asks; what belongs to no row is never used.
struct Codes {
    const std::uint8_t* bytes;   // [blocks][groups(width)][kBlock][kGroup], from an address that 64 divides
    const float* scales;         // [blocks * kBlock], s
    const float* lengths;        // [blocks * kBlock], not below |s c|
    const float* const* errors;  // [norms(width)] of [blocks * kBlock], not below |e| over each prefix
    const float* mean;           // [width], mu, not in units
    int exponent;                // of the unit
    const Halves* halves = nullptr;  // null if there are none
};

struct MutableCodes {
    std::uint8_t* bytes;
    float* scales;
    float* lengths;
    float* const* errors;
};

struct MutableHalves {
    std::uint8_t* bytes;
    float* scales;
    float* errors;
    std::uint8_t* quarters;
    float* rest_errors;
};

// Codes `count` rows of `width` finite float32 as rows `first`, `first + 1`, ... of an index. Values must be below
// 2^(exponent + 80).
void encode(const float* vectors, std::size_t first, std::size_t count, std::size_t width, const float* mean,
            int exponent, std::size_t threads, const MutableCodes& codes);

// The same in halves and quarters.
void encode_halves(const float* vectors, std::size_t first, std::size_t count, std::size_t width, const float* mean,
                   int exponent, std::size_t threads, const MutableHalves& halves);

}  // namespace care
