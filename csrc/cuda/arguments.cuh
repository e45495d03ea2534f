// The arguments that all kernels of one search share. All pointers are to GPU memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "care/topk.hpp"
#include "plan.hpp"
#include "primitives.cuh"
#include "query_code.hpp"

namespace care::cuda {

// `bound` is never NaN; `id` is negative where there is no candidate.
struct alignas(8) Candidate {
    float bound;
    std::int32_t id;
};

struct Arguments {
    // The index.
    const float* vectors;
    const std::uint8_t* bytes;  // int8 codes
    const float* scales;
    const float* code_norms;
    const float* errors;
    const float* mean;
    int exponent;
    std::size_t rows, width, stride;  // stride: bytes per block

    // The queries of a pass.
    const float* queries;
    std::size_t count, query_width, k;
    const std::uint16_t* allowed;  // null for all
    Plan plan;

    // Intermediate results of a kernel for the next one, by query.
    QueryCode* query_codes;
    std::uint8_t* packed_queries;  // [column groups][steps][tiles][lanes][2][4] codes in the layout of the tensor cores
    float* thresholds;
    unsigned* candidate_counts;  // larger than the capacity where pruning failed
    Candidate* candidates;       // [count][capacity]

    // Queries for which pruning failed, or all if there is no filter. Their vectors are divided among blocks.
    unsigned* failed_count;
    unsigned* failed_queries;        // [count]
    unsigned* finished_parts;        // [count], by position in failed_queries
    unsigned exhaustive_blocks;      // not below count
    Hit* partial_hits;               // [exhaustive_blocks][k]

    // Results. Null if they are not wanted.
    double* scores;
    float* float_scores;
    std::int64_t* ids;
    std::int64_t* rescored;

    __device__ bool is_allowed(std::size_t row) const {
        return row < rows && (!allowed || (allowed[row / kBlock] >> (row % kBlock) & 1));
    }
};

}  // namespace care::cuda
