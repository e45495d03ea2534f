// The inner loops of the scan: one set of functions for each instruction set. All have the same results, except that
// the last bits of bounds may differ.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "../query_code.hpp"

namespace care {

// Consecutive blocks of an index.
struct Tile {
    std::size_t blocks;
    const std::uint8_t* bytes;        // int8 codes, from the first block
    std::size_t stride;               // bytes per block
    const float* scales;              // [blocks * kBlock], like the next two
    const float* code_norms;
    const float* errors;
    const float* vectors;             // the stored vectors, row-major
    std::size_t rows;                 // number of vectors; the last block may be incomplete
    std::size_t width;
    const std::uint8_t* int4_bytes;   // int4 codes with scales and errors, or null
    const float* int4_scales;
    const float* int4_errors;
    const std::uint8_t* residuals;    // residual codes and their errors, or null
    const float* residual_errors;
    const std::uint8_t* next_bytes;   // int8 codes that are scanned after these, to be prefetched, or null
    float* scratch;                   // [kScratchBlocks * kBlock * query_width] for the float filter, 64-byte aligned
};
inline constexpr std::size_t kScratchBlocks = 2;
// Tiles of many queries are multiples of so many blocks: those of the largest register tile.
inline constexpr std::size_t kRegisterTileBlocks = 3;

// Bytes of one term of a query. Padded with zeros to the length of int4 and residual codes.
inline constexpr std::size_t query_row_bytes(std::size_t query_width) {
    return kResidualsPerByte * residual_bytes(query_width);
}

// What a filter by one term found when it tested what passed by both terms: for all queries, blocks in which vectors passed, those
// vectors, and of them what is left.
struct Refinement {
    std::size_t blocks = 0, vectors = 0, left = 0;
};

// A batch of queries.
struct Queries {
    std::size_t count;
    std::size_t query_width;
    const std::int8_t* first;     // [count][query_row_bytes(query_width)], first terms
    const std::int8_t* second;    // second terms
    const QueryBound* bounds;     // [count]
    const float* floats;          // [count][query_width], in units of query and index
    const float* float_rounding;  // [count], rounding error of the float filter for a vector with |s c| + |e| = 1
    Refinement* refinement;       // added to by the filter by one term; null to leave its bounds as they are
};

// A query times the scales of the values, for int4 codes.
struct Int4Query {
    std::size_t width;
    const std::int8_t* terms[2];  // [query_row_bytes(width)]
    Int4QueryBound bound;
};

// Writes one bit per vector, set if its bound is not below the query's threshold: masks[block * queries.count + query].
// Where any is set, the bounds of the block: bounds[(block * queries.count + query) * kBlock].
using Filter = void(const Tile& tile, const Queries& queries, const float* thresholds, std::uint16_t* masks,
                    float* bounds);

// Filters by int4 codes, for a single query of full width, and what passes by residual codes. Of the vectors in
// masks[tile.blocks] those stay that pass both. Their bounds: bounds[tile.blocks * kBlock].
using Int4Filter = void(const Tile& tile, const Int4Query& query, float threshold, std::uint16_t* masks, float* bounds);

// The scores of care/score.hpp of several vectors, in the time of little more than one: their sums do not wait for one
// another. The query is in float64 and padded with zeros to a multiple of kLanes.
inline constexpr std::size_t kScoredTogether = 4;
using Scores = void(const float* const (&vectors)[kScoredTogether], const double* query, std::size_t width,
                    double (&scores)[kScoredTogether]);

struct Kernel {
    std::string_view instruction_set;
    int query_code_limit;
    Filter* code_filter;           // one term per query
    Filter* two_term_code_filter;
    Int4Filter* int4_filter;       // two terms
    Filter* float_filter;
    Scores* scores;
};

// The kernels that this processor can run, the fastest first.
const std::vector<Kernel>& kernels();

// The kernel of that name, or the fastest if the name is empty. Throws std::invalid_argument.
const Kernel& kernel(std::string_view instruction_set);

}  // namespace care
