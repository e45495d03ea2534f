#include "score_rows.hpp"

#include "care/score.hpp"

// One function a processor, chosen when the library is loaded. The order of additions is part of score(),
// and products are exact, so all of them give the same bits.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CARE_CLONES [[gnu::target_clones("avx512f", "avx2", "default")]]
#else
#define CARE_CLONES
#endif

namespace care {

CARE_CLONES
void score_rows(const float* rows, std::size_t count, std::size_t width, const float* query, double* scores) {
    for (std::size_t r = 0; r < count; ++r) scores[r] = score(rows + r * width, query, width);
}

}  // namespace care
