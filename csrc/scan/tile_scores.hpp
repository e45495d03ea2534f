// Scores of a tile of rows: one function for each instruction set, all with the bits of care/score.hpp.
#pragma once

#include <cstddef>

namespace care {

// Scores `row_count` rows of `width` float32 against each query. A query is widened to float64 and padded
// with zeros to `query_stride`, a multiple of kLanes. Score (q, r) goes to scores[q * row_count + r].
using TileScores = void(const float* rows, std::size_t row_count, std::size_t width, const double* queries,
                        std::size_t query_count, std::size_t query_stride, double* scores);

TileScores tile_scores_portable;
#ifdef CARE_X86
TileScores tile_scores_avx2;
TileScores tile_scores_avx512;
#endif

}  // namespace care
