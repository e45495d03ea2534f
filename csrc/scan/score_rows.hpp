// Scores of consecutive rows against one query, on the widest vectors that the processor has.
#pragma once

#include <cstddef>

namespace care {

void score_rows(const float* rows, std::size_t count, std::size_t width, const float* query, double* scores);

}  // namespace care
