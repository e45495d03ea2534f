// Bounds from codes by the tensor cores, and what reaches its query's threshold: no score is written down.
//
// A warp takes two blocks of vectors at a time. Each lane loads 16 bytes: four values of four vectors, which are rows g
// and g + 8 of two products, so codes go from memory to the tensor cores without a detour. Which vector is which row
// only matters at the end: lane 4 g + t has vectors 4 (g % 4) ... + 3 of block g / 4.
#pragma once

#include "arguments.cuh"
#include "block.cuh"

namespace care::cuda {

// What a block keeps of a query.
struct alignas(16) SharedBound {
    Bound bound;
    float threshold;
};

inline std::size_t filter_shared_bytes(const Plan& plan) {
    return plan.group_bytes() + plan.queries_of_group() * sizeof(SharedBound);
}

inline std::size_t encode_shared_bytes(std::size_t searched) { return searched * sizeof(double); }

// Codes of a query, and everything that later kernels count on.
__global__ void __launch_bounds__(kThreads) encode_queries(Arguments a) {
    __shared__ double room[kThreads / kWarp];
    const std::size_t query = blockIdx.x;
    const std::size_t each = a.plan.both_terms ? 2 : 1;
    const std::size_t column = query % a.plan.queries_of_group() * each;
    std::uint8_t* words = a.words + query / a.plan.queries_of_group() * a.plan.group_bytes();
    // Columns of queries that are not there stay as they were: nobody looks at what they give.
    const auto store = [&](std::size_t term, std::size_t j, std::int8_t code) {
        if (term >= each) return;
        const std::size_t step = j / 32, half = j % 32 / 16, t = j % 16 / 4, c = column + term;
        const std::size_t lane = c % kTileColumns * 4 + t;
        words[(((step * a.plan.tiles + c / kTileColumns) * kWarp + lane) * 2 + half) * 4 + j % 4] =
            static_cast<std::uint8_t>(code);
    };
    // Vectors have codes, or the loads zeros, up to the last step.
    for (std::size_t j = a.searched + threadIdx.x; j < a.plan.steps * 32; j += kThreads) {
        for (std::size_t term = 0; term < each; ++term) store(term, j, 0);
    }
    const QueryCode code = encode_query(Block(room), a.queries + query * a.searched, a.searched, a.mean, a.exponent,
                                        127, static_cast<double*>(shared_memory()), store);
    if (threadIdx.x > 0) return;
    a.codes[query] = code;
    a.thresholds[query] = -std::numeric_limits<float>::infinity();
    a.counts[query] = a.parts_done[query] = 0;
    if (a.rescored) a.rescored[query] = 0;
    if (!a.plan.by_codes) a.hopeless[query] = static_cast<unsigned>(query);
    if (query == 0) *a.hopeless_count = a.plan.by_codes ? 0 : static_cast<unsigned>(a.count);
}

template <std::size_t Tiles, bool BothTerms, bool Sample>
__global__ void __launch_bounds__(kThreads, 2) filter(Arguments a) {
    constexpr std::size_t kEach = BothTerms ? 2 : 1, kAtOnce = steps_at_once(Tiles);
    constexpr std::size_t kQueries = Tiles * kTileColumns / kEach;
    uint2* const words = static_cast<uint2*>(shared_memory());
    SharedBound* const bounds = reinterpret_cast<SharedBound*>(words + a.plan.group_bytes() / sizeof(uint2));
    const std::size_t first_query = blockIdx.y * kQueries;
    take_turn();

    const uint4* const from = reinterpret_cast<const uint4*>(a.words + blockIdx.y * a.plan.group_bytes());
    for (std::size_t i = threadIdx.x; i < a.plan.group_bytes() / sizeof(uint4); i += kThreads) {
        reinterpret_cast<uint4*>(words)[i] = from[i];
    }
    for (std::size_t i = threadIdx.x; i < kQueries && first_query + i < a.count; i += kThreads) {
        bounds[i] = {a.codes[first_query + i].bound, a.thresholds[first_query + i]};
    }
    __syncthreads();

    const unsigned lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
    const std::size_t group_count = groups(a.width), block_count = blocks(a.rows);
    const std::size_t pair_count = Sample ? a.plan.sample_pairs : a.plan.pairs;
    // The few pairs of a sample are spread over all blocks.
    const std::size_t warp = threadIdx.x / kWarp, warps = gridDim.x * (kThreads / kWarp);
    const std::size_t first_pair = Sample ? warp * gridDim.x + blockIdx.x : blockIdx.x * (kThreads / kWarp) + warp;
    for (std::size_t pair = first_pair; pair < pair_count; pair += warps) {
        const std::size_t block = (Sample ? pair * a.plan.stride : pair) * kPairBlocks + g / 4;
        // The last pair may lack its second block: what is multiplied instead is never found.
        const std::size_t there = block < block_count ? block : block_count - 1;
        const std::uint8_t* const codes = a.bytes + there * a.stride + g % 4 * sizeof(uint4);

        std::int32_t sums[2][Tiles][4] = {};
        for (std::size_t start = 0; start < a.plan.steps; start += kAtOnce) {
            uint4 low[kAtOnce], high[kAtOnce];
#pragma unroll
            for (std::size_t s = 0; s < kAtOnce; ++s) {
                const std::size_t group = (start + s) * kStepGroups + t;
                const auto load = [&](std::size_t at) {
                    return at < group_count ? __ldg(reinterpret_cast<const uint4*>(codes + at * kGroupBytes))
                                            : make_uint4(0, 0, 0, 0);
                };
                low[s] = load(group);
                high[s] = load(group + 4);
            }
#pragma unroll
            for (std::size_t s = 0; s < kAtOnce; ++s) {
#pragma unroll
                for (std::size_t n = 0; n < Tiles; ++n) {
                    const uint2 query = words[((start + s) * Tiles + n) * kWarp + lane];
                    multiply(sums[0][n], low[s].x, low[s].y, high[s].x, high[s].y, query.x, query.y);
                    multiply(sums[1][n], low[s].z, low[s].w, high[s].z, high[s].w, query.x, query.y);
                }
            }
        }

        const std::size_t row = block * kBlock + g % 4 * 4;
        const std::size_t known = there * kBlock + g % 4 * 4;
        const float4 scale = *reinterpret_cast<const float4*>(a.scales + known);
        const float4 length = *reinterpret_cast<const float4*>(a.lengths + known);
        const float4 error = *reinterpret_cast<const float4*>(a.errors + known);
        const auto consider = [&](std::size_t query, std::size_t v, std::int32_t one, std::int32_t two, float s,
                                  float l, float e) {
            if (first_query + query >= a.count) return;
            const Bound& b = bounds[query].bound;
            float product = b.term[0] * static_cast<float>(one - b.correction[0]);
            if (BothTerms) product += b.term[1] * static_cast<float>(two - b.correction[1]);
            const float bound = s * product + b.query_length * e + b.rest_length[kEach - 1] * l;
            // No number, from a damaged file: like a vector of which nothing is known.
            if (!Sample && bound < bounds[query].threshold) return;
            const bool found = a.may_be_found(row + v);
            const float kept = bound == bound ? bound : std::numeric_limits<float>::infinity();
            const Candidate candidate{kept, static_cast<std::int32_t>(row + v)};
            Candidate* const list = a.candidates + (first_query + query) * a.plan.capacity;
            if (Sample) {
                list[pair * kPair + g / 4 * kBlock + g % 4 * 4 + v] = found ? candidate : Candidate{0, -1};
            } else if (found) {
                const unsigned place = atomicAdd(a.counts + first_query + query, 1u);
                if (place < a.plan.capacity) list[place] = candidate;
            }
        };
#pragma unroll
        for (std::size_t n = 0; n < Tiles; ++n) {
#pragma unroll
            for (std::size_t v = 0; v < 4; ++v) {
                const std::int32_t first = sums[v / 2][n][v % 2 * 2], second = sums[v / 2][n][v % 2 * 2 + 1];
                const float s = v == 0 ? scale.x : v == 1 ? scale.y : v == 2 ? scale.z : scale.w;
                const float l = v == 0 ? length.x : v == 1 ? length.y : v == 2 ? length.z : length.w;
                const float e = v == 0 ? error.x : v == 1 ? error.y : v == 2 ? error.z : error.w;
                if (BothTerms) {
                    consider(n * kTileColumns / 2 + t, v, first, second, s, l, e);
                } else {
                    consider(n * kTileColumns + 2 * t, v, first, 0, s, l, e);
                    consider(n * kTileColumns + 2 * t + 1, v, second, 0, s, l, e);
                }
            }
        }
    }
}

}  // namespace care::cuda
