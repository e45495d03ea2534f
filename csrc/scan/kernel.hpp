// What the scan does with all vectors: one set of functions for each instruction set, all with the same results but
// for the bounds, whose last bits may differ.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "query_code.hpp"

namespace care {

// A few blocks of vectors, and what belongs to them.
struct Tile {
    std::size_t blocks;
    const std::uint8_t* bytes;  // of its first block
    std::size_t stride;         // bytes from block to block
    const float* scales;        // [blocks * kBlock], as the other two
    const float* lengths;
    const float* errors;
    const float* vectors;  // the stored ones, row after row
    std::size_t rows;      // how many there are
    std::size_t width;
    const std::uint8_t* half_bytes;  // as bytes, scales and errors are, or null
    const float* half_scales;
    const float* half_errors;
    float* room;           // [kRoomBlocks * kBlock * searched], for the float filter, from an address that 64 divides
};
inline constexpr std::size_t kRoomBlocks = 2;

// A term of a query: zeros fill it up to what halves and quarters have room for.
inline constexpr std::size_t row_bytes(std::size_t searched) { return kQuarters * quarter_bytes(searched); }

// Queries of one pass.
struct Queries {
    std::size_t count;
    std::size_t searched;        // how many values of each are compared
    const std::int8_t* first;    // [count][row_bytes(searched)], the first terms
    const std::int8_t* second;   // the second terms
    const Bound* bounds;         // [count]
    const float* floats;         // [count][searched], in units of query and index
    const float* float_rounding; // [count], by the float filter, of the score of a vector with |s c| + |e| = 1
};

// For each query and block one bit a vector whose bound is not below the query's threshold:
// masks[query * tile.blocks + block].
using Filter = void(const Tile& tile, const Queries& queries, const float* thresholds, std::uint16_t* masks);

// The bounds themselves, of one block and one query.
using Bounds = void(const Tile& tile, std::size_t block, const Queries& queries, std::size_t query, float* bounds);

// The same from halves, for one query over all values of the vectors, and the bounds along: masks[tile.blocks], and
// bounds[tile.blocks * kBlock].
using HalfFilter = void(const Tile& tile, const Queries& queries, float threshold, std::uint16_t* masks, float* bounds);

// The bound of a vector from halves and quarters, for the one query that its bound from halves is of.
using Refine = float(const Halves& halves, std::size_t row, const Queries& queries, float bound);

// The score of care/score.hpp; the query is in float64 and padded with zeros to a multiple of kLanes.
using Score = double(const float* vector, const double* query, std::size_t width);

struct Kernel {
    std::string_view instruction_set;
    int limit;            // of a query's codes
    Filter* code_filter;  // one term a query
    Filter* fine_code_filter;  // two terms
    Bounds* code_bounds;       // two terms
    HalfFilter* half_filter;   // two terms
    Refine* refine;
    Filter* float_filter;
    Bounds* float_bounds;
    Score* score;
};

// The kernels that this processor can run, the fastest first.
const std::vector<Kernel>& kernels();

// The kernel of that name, or the fastest if the name is empty. Throws std::invalid_argument.
const Kernel& kernel(std::string_view instruction_set);

}  // namespace care
