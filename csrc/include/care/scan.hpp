// Exact top-k search by inner product (score.hpp): a scan over the codes prunes (codes.hpp), what is left is rescored.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "care/codes.hpp"

namespace care {

// Row-major.
struct Matrix {
    const float* data;
    std::size_t rows;
    std::size_t width;
};

struct SearchOptions {
    std::size_t k;
    std::size_t threads = 1;
    // Bit mask of the vectors that may be found: one 16-bit word per block, first vector in the lowest bit. Null for
    // all.
    const std::uint16_t* allowed = nullptr;
    // One of instruction_sets(), or empty for the fastest.
    std::string_view instruction_set = {};
};

// Writes the k best hits of query q to scores[q * k ...] and ids[q * k ...], best first in the order of topk.hpp. If
// there are fewer, the rest is -infinity and -1. Queries narrower than the vectors are compared with a prefix of each
// vector. `threads` and `instruction_set` never change the result. rescored[q] is how many vectors were scored exactly;
// with several threads it may differ between runs.
//
// Throws std::invalid_argument if the instruction set is not available, and std::bad_alloc.
void search(const Matrix& vectors, const Codes& codes, const Matrix& queries, const SearchOptions& options,
            double* scores, std::int64_t* ids, std::int64_t* rescored);

// The same for the vectors `rows` alone, `count` different ids in ascending order. Each of them is scored exactly, which
// is faster than a scan if they are few. `options.allowed` does not apply.
void search_rows(const Matrix& vectors, const std::int64_t* rows, std::size_t count, const Matrix& queries,
                 const SearchOptions& options, double* scores, std::int64_t* ids);

// The same for one query of full width on this thread, with `rows` in any order: for a few candidates, where each
// microsecond counts.
void search_candidates(const Matrix& vectors, const std::int64_t* rows, std::size_t count, const float* query,
                       const SearchOptions& options, double* scores, std::int64_t* ids);

// The float32 nearest to each score, whatever rounding mode the caller has set. Infinity if it is out of range.
void as_float32(const double* scores, std::size_t count, float* rounded);

// Instruction sets that this processor has a kernel for, the fastest first.
std::vector<std::string_view> instruction_sets();

}  // namespace care
