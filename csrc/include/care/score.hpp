// The score of a document and a query, defined to the last bit.
//
// The product of two float32 values is exact in float64, so only additions round. Their order is fixed:
//
//     a[i]  = ((0 + d[i] q[i]) + d[i+8] q[i+8]) + d[i+16] q[i+16] + ...      i = 0 .. 7
//     score = ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))
//
// Eight accumulators fill one AVX-512 register, two AVX2 registers, or four SSE2 or NEON registers. The final sum is
// the usual tree that adds the upper part of a register to its lower part. So every processor computes the same bits at
// full speed. A fused multiply-add computes them too: the product is exact, and only the addition rounds. Finite
// vectors have finite scores, because a product is below 2^256. Padding a vector with zeros does not change its scores.
#pragma once

#include <cstddef>

// Sources built for different instruction sets share this header. Always inline: of a function that is not inlined the
// linker would keep one copy for all of them.
#define CARE_INLINE [[gnu::always_inline]] inline

namespace care {

inline constexpr std::size_t kLanes = 8;

CARE_INLINE double sum_lanes(const double (&a)[kLanes]) {
    return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
}

CARE_INLINE double score(const float* document, const float* query, std::size_t width) {
    double a[kLanes] = {};
    const std::size_t whole = width / kLanes * kLanes;
    for (std::size_t j = 0; j < whole; j += kLanes) {
        for (std::size_t i = 0; i < kLanes; ++i) a[i] += double{document[j + i]} * double{query[j + i]};
    }
    for (std::size_t j = whole; j < width; ++j) a[j - whole] += double{document[j]} * double{query[j]};
    return sum_lanes(a);
}

}  // namespace care
