// Scores of a tile of rows, once for each instruction set that this build knows.
#pragma once

#include <cstddef>

namespace care {

// Scores `row_count` rows of `width` float32 against each query; queries as in score_block.
// Score (q, r) goes to scores[q * row_count + r].
using TileScores = void(const float* rows, std::size_t row_count, std::size_t width, const double* queries,
                        std::size_t query_count, std::size_t query_stride, double* scores);

TileScores tile_scores_portable;
#ifdef CARE_X86
TileScores tile_scores_avx2;
TileScores tile_scores_avx512;
#endif

}  // namespace care
