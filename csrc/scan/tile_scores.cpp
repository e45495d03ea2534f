// Built once for each instruction set, under the name CARE_TILE_SCORES. What this file includes must leave
// no function behind that the linker could share with a source built for an older processor.
#include "tile_scores.hpp"

#include <cstring>

#include "care/score.hpp"

namespace care {
namespace {

// Registers of this instruction set, and how many rows and queries are scored together: measured.
#if defined(__AVX512F__)
constexpr std::size_t kRegister = 8, kRows = 4, kQueries = 4;
#elif defined(__AVX2__)
constexpr std::size_t kRegister = 4, kRows = 1, kQueries = 8;
#else
constexpr std::size_t kRegister = 2, kRows = 1, kQueries = 8;
#endif
constexpr std::size_t kRegisters = kLanes / kRegister;

using Doubles [[gnu::vector_size(kRegister * sizeof(double))]] = double;
using Floats [[gnu::vector_size(kRegister * sizeof(float))]] = float;

template <typename Element, typename Register>
CARE_INLINE void load(const Element* from, Register& to) {
    std::memcpy(&to, from, sizeof to);  // one instruction, at any address
}

// Adds kLanes products to the accumulators of each row and query.
template <std::size_t Rows, std::size_t Queries>
CARE_INLINE void accumulate(const float* rows, std::size_t width, const double* queries, std::size_t query_stride,
                            Doubles (&sums)[Queries][Rows][kRegisters]) {
#pragma GCC unroll 8
    for (std::size_t i = 0; i < kRegisters; ++i) {
        Doubles row[Rows];
#pragma GCC unroll 8
        for (std::size_t r = 0; r < Rows; ++r) {
            Floats stored;
            load(rows + r * width + i * kRegister, stored);
            row[r] = __builtin_convertvector(stored, Doubles);
        }
#pragma GCC unroll 8
        for (std::size_t q = 0; q < Queries; ++q) {
            Doubles query;
            load(queries + q * query_stride + i * kRegister, query);
#pragma GCC unroll 8
            for (std::size_t r = 0; r < Rows; ++r) sums[q][r][i] += row[r] * query;
        }
    }
}

template <std::size_t Rows, std::size_t Queries>
CARE_INLINE void score_block(const float* rows, std::size_t width, const double* queries, std::size_t query_stride,
                             double* scores, std::size_t score_stride) {
    Doubles sums[Queries][Rows][kRegisters] = {};
    const std::size_t whole = width / kLanes * kLanes;
    for (std::size_t j = 0; j < whole; j += kLanes) {
        accumulate<Rows, Queries>(rows + j, width, queries + j, query_stride, sums);
    }
    if (whole < width) {
        float padded[Rows][kLanes] = {};
        for (std::size_t r = 0; r < Rows; ++r) {
            for (std::size_t j = whole; j < width; ++j) padded[r][j - whole] = rows[r * width + j];
        }
        accumulate<Rows, Queries>(padded[0], kLanes, queries + whole, query_stride, sums);
    }
    for (std::size_t q = 0; q < Queries; ++q) {
        for (std::size_t r = 0; r < Rows; ++r) {
            double a[kLanes];
            for (std::size_t i = 0; i < kLanes; ++i) a[i] = sums[q][r][i / kRegister][i % kRegister];
            scores[q * score_stride + r] = combine(a);
        }
    }
}

template <std::size_t Rows, std::size_t Queries>
CARE_INLINE void score_rows(const float* rows, std::size_t row_count, std::size_t width, const double* queries,
                            std::size_t query_stride, double* scores) {
    std::size_t r = 0;
    for (; r + Rows <= row_count; r += Rows) {
        score_block<Rows, Queries>(rows + r * width, width, queries, query_stride, scores + r, row_count);
    }
    for (; r < row_count; ++r) {
        score_block<1, Queries>(rows + r * width, width, queries, query_stride, scores + r, row_count);
    }
}

}  // namespace

void CARE_TILE_SCORES(const float* rows, std::size_t row_count, std::size_t width, const double* queries,
                      std::size_t query_count, std::size_t query_stride, double* scores) {
    std::size_t q = 0;
    for (; q + kQueries <= query_count; q += kQueries) {
        score_rows<kRows, kQueries>(rows, row_count, width, queries + q * query_stride, query_stride,
                                    scores + q * row_count);
    }
    // For one query memory is the limit, and it is read fastest row after row.
    for (; q < query_count; ++q) {
        score_rows<1, 1>(rows, row_count, width, queries + q * query_stride, query_stride, scores + q * row_count);
    }
}

}  // namespace care
