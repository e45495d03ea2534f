// The score of a document and a query, defined to the last bit.
//
// The product of two float32 values is exact in float64, so only additions round. Their order is fixed:
//
//     a[i]  = ((0 + d[i] q[i]) + d[i+8] q[i+8]) + d[i+16] q[i+16] + ...      i = 0 .. 7
//     score = ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))
//
// Eight accumulators fill one AVX-512 register, two of AVX2 or four of SSE2 and NEON, and the tree is how
// such registers are halved: every processor can give these bits at full speed. A fused multiply-add gives
// them too, for an exact product leaves it one rounding, that of the addition. Finite vectors have finite
// scores, since a product is below 2^256; and padding a vector with zeros leaves its scores alone.
#pragma once

#include <cstddef>

// Always inlined: sources built for different instruction sets share this header, and of a function that
// is not inlined the linker keeps one copy for all.
#define CARE_INLINE [[gnu::always_inline]] inline

namespace care {

inline constexpr std::size_t kLanes = 8;

CARE_INLINE double combine(const double (&a)[kLanes]) {
    return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
}

CARE_INLINE double score(const float* document, const float* query, std::size_t width) {
    double a[kLanes] = {};
    const std::size_t whole = width / kLanes * kLanes;
    for (std::size_t j = 0; j < whole; j += kLanes) {
        for (std::size_t i = 0; i < kLanes; ++i) a[i] += double{document[j + i]} * double{query[j + i]};
    }
    for (std::size_t j = whole; j < width; ++j) a[j - whole] += double{document[j]} * double{query[j]};
    return combine(a);
}

}  // namespace care
