// What the kernels of one search share. All pointers are to memory of the GPU.
#pragma once

#include <cstddef>
#include <cstdint>

#include "care/topk.hpp"
#include "plan.hpp"
#include "primitives.cuh"
#include "query_code.hpp"

namespace care::cuda {

// Its bound is never NaN; `id` is negative where there is none.
struct alignas(8) Candidate {
    float bound;
    std::int32_t id;
};

struct Arguments {
    // The index.
    const float* vectors;
    const std::uint8_t* bytes;
    const float* scales;
    const float* lengths;
    const float* errors;
    const float* mean;
    int exponent;
    std::size_t rows, width, stride;  // stride: bytes from block to block

    // The queries of a pass.
    const float* queries;
    std::size_t count, searched, k;
    const std::uint16_t* allowed;  // null for all
    Plan plan;

    // What one kernel leaves for the next, by query.
    QueryCode* codes;
    std::uint8_t* words;   // [columns][steps][tiles][lanes][2] words of four codes, as the tensor cores take them
    float* thresholds;
    unsigned* counts;      // of candidates: more than there is room for where codes did not pay
    Candidate* candidates; // [count][capacity]

    // Queries for which codes did not pay.
    unsigned* hopeless_count;
    unsigned* hopeless;        // [count], which ones
    unsigned* parts_done;        // [count], by place in that list
    unsigned exhaustive_blocks;  // count at least
    Hit* parts;                  // [exhaustive_blocks][k], hits of each

    // Results, or null where nobody asks.
    double* scores;
    float* rounded;  // the same scores in float32
    std::int64_t* ids;
    std::int64_t* rescored;

    __device__ bool may_be_found(std::size_t row) const {
        return row < rows && (!allowed || (allowed[row / kBlock] >> (row % kBlock) & 1));
    }
};

}  // namespace care::cuda
