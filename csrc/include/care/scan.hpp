// Exact search: the k vectors with the largest scores (score.hpp), found by way of their codes (codes.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "care/codes.hpp"

namespace care {

struct Matrix {
    const float* data;  // rows one after another
    std::size_t rows;
    std::size_t width;
};

struct Search {
    std::size_t k;
    std::size_t threads = 1;
    // One bit a vector, sixteen in each, from the lowest: what may be found. Null for all.
    const std::uint16_t* allowed = nullptr;
    // One of instruction_sets(), or empty for the fastest.
    std::string_view instruction_set = {};
};

// Writes the k best hits of query q to scores[q * k ...] and ids[q * k ...], best first in the order of topk.hpp.
// Places that are left get -infinity and -1. Queries that are narrower than the vectors are compared with that many
// of their first values. `threads` and `instruction_set` change the time, never the result. rescored[q] is how many
// vectors were scored exactly; where several threads race it may differ from one search to the next.
//
// Throws std::invalid_argument for an instruction set that is not there, and std::bad_alloc.
void search(const Matrix& vectors, const Codes& codes, const Matrix& queries, const Search& how, double* scores,
            std::int64_t* ids, std::int64_t* rescored);

// The nearest float32 of each score, whatever rounding the caller has set; infinity beyond float32.
void as_float32(const double* scores, std::size_t count, float* rounded);

// What this processor can run, the fastest first.
std::vector<std::string_view> instruction_sets();

}  // namespace care
