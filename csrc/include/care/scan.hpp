// Exact search: every vector is scored against every query, the best k of each query are kept.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace care {

struct Matrix {
    const float* data;  // rows one after another
    std::size_t rows;
    std::size_t width;
};

// Writes the k best hits of query q to scores[q * k ...] and ids[q * k ...], best first (see score.hpp for
// the score, topk.hpp for the order). Places that are left get -infinity and -1. `threads` and
// `instruction_set` (one of instruction_sets(); empty for the fastest) change the time, never the result.
// Throws std::invalid_argument for an instruction set that is not there, and std::bad_alloc.
void scan(const Matrix& documents, const Matrix& queries, std::size_t k, std::size_t threads, float* scores,
          std::int64_t* ids, std::string_view instruction_set = {});

// What this processor can run, the fastest first.
std::vector<std::string_view> instruction_sets();

}  // namespace care
