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

// Candidates that a warp has found and not yet handed over: a place in a query's list costs a wait for memory, which
// all of them then share.
struct Found {
    unsigned query;
    std::int32_t id;
    float bound;
};
inline constexpr unsigned kFoundRoom = 64;

struct Waiting {
    Found found[kFoundRoom];
    unsigned count;
};

__device__ inline void keep(const Arguments& a, const Found& found) {
    const unsigned place = atomicAdd(a.counts + found.query, 1u);
    if (place < a.plan.capacity) a.candidates[found.query * a.plan.capacity + place] = {found.bound, found.id};
}

// The lanes of a warp together.
__device__ inline void hand_over(const Arguments& a, Waiting& waiting) {
    __syncwarp();
    const unsigned count = waiting.count < kFoundRoom ? waiting.count : kFoundRoom;
    for (unsigned i = threadIdx.x % kWarp; i < count; i += kWarp) keep(a, waiting.found[i]);
    __syncwarp();
    if (threadIdx.x % kWarp == 0) waiting.count = 0;
    __syncwarp();
}

// Codes of some steps: a lane's part.
template <unsigned Steps>
struct Loaded {
    uint4 low[Steps], high[Steps];

    __device__ void load(const uint4* codes, unsigned first_step, unsigned group_count) {
#pragma unroll
        for (unsigned s = 0; s < Steps; ++s) {
            const unsigned group = (first_step + s) * kStepGroups + threadIdx.x % 4;
            low[s] = group < group_count ? __ldg(codes + group * kUnits) : make_uint4(0, 0, 0, 0);
            high[s] = group + 4 < group_count ? __ldg(codes + (group + 4) * kUnits) : make_uint4(0, 0, 0, 0);
        }
    }

    static constexpr unsigned kUnits = kGroupBytes / sizeof(uint4);
};

template <unsigned Tiles, bool BothTerms, bool Sample>
__global__ void __launch_bounds__(kThreads, 2) filter(Arguments a) {
    constexpr unsigned kEach = BothTerms ? 2 : 1, kAtOnce = steps_at_once(Tiles);
    constexpr unsigned kQueries = Tiles * kTileColumns / kEach;
    __shared__ Waiting waiting[kThreads / kWarp];
    uint2* const words = static_cast<uint2*>(shared_memory());
    SharedBound* const bounds = reinterpret_cast<SharedBound*>(words + a.plan.group_bytes() / sizeof(uint2));
    const unsigned first_query = blockIdx.y * kQueries;
    const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, g = lane / 4, t = lane % 4;
    if (lane == 0) waiting[warp].count = 0;
    take_turn();

    const uint4* const from = reinterpret_cast<const uint4*>(a.words + blockIdx.y * a.plan.group_bytes());
    for (unsigned i = threadIdx.x; i < a.plan.group_bytes() / sizeof(uint4); i += kThreads) {
        reinterpret_cast<uint4*>(words)[i] = from[i];
    }
    for (unsigned i = threadIdx.x; i < kQueries && first_query + i < a.count; i += kThreads) {
        bounds[i] = {a.codes[first_query + i].bound, a.thresholds[first_query + i]};
    }
    __syncthreads();

    const unsigned group_count = static_cast<unsigned>(groups(a.width)), steps = static_cast<unsigned>(a.plan.steps);
    const unsigned block_count = static_cast<unsigned>(blocks(a.rows));
    const unsigned pair_count = static_cast<unsigned>(Sample ? a.plan.sample_pairs : a.plan.pairs);
    const unsigned stride = Sample ? static_cast<unsigned>(a.plan.stride) : 1;
    // The few pairs of a sample are spread over all blocks.
    const unsigned warps = gridDim.x * (kThreads / kWarp);
    const unsigned first_pair = Sample ? warp * gridDim.x + blockIdx.x : blockIdx.x * (kThreads / kWarp) + warp;
    // The last pair may lack its second block: what is multiplied instead is never found.
    const auto block_of = [&](unsigned pair) { return pair * stride * unsigned{kPairBlocks} + g / 4; };
    const auto there = [&](unsigned block) { return block < block_count ? block : block_count - 1; };
    const auto codes_of = [&](unsigned pair) {
        return reinterpret_cast<const uint4*>(a.bytes + there(block_of(pair)) * a.stride) + g % 4;
    };

    // Many columns: what is multiplied next is on its way meanwhile, that of the next pair too. With few, reading is
    // the limit, and a longer run of loads serves it better.
    constexpr bool kAhead = loads_ahead(Tiles);
    Loaded<kAtOnce> next;
    if (kAhead && first_pair < pair_count) next.load(codes_of(first_pair), 0, group_count);
    for (unsigned pair = first_pair; pair < pair_count; pair += warps) {
        std::int32_t sums[2][Tiles][4] = {};
        for (unsigned start = 0; start < steps; start += kAtOnce) {
            if (!kAhead) next.load(codes_of(pair), start, group_count);
            const Loaded<kAtOnce> now = next;
            const bool last = start + kAtOnce >= steps;
            const unsigned next_pair = last ? pair + warps : pair;
            if (kAhead && next_pair < pair_count) next.load(codes_of(next_pair), last ? 0 : start + kAtOnce, group_count);
#pragma unroll
            for (unsigned s = 0; s < kAtOnce; ++s) {
#pragma unroll
                for (unsigned n = 0; n < Tiles; ++n) {
                    const uint2 query = words[((start + s) * Tiles + n) * kWarp + lane];
                    multiply(sums[0][n], now.low[s].x, now.low[s].y, now.high[s].x, now.high[s].y, query.x, query.y);
                    multiply(sums[1][n], now.low[s].z, now.low[s].w, now.high[s].z, now.high[s].w, query.x, query.y);
                }
            }
        }

        const unsigned block = block_of(pair), row = block * unsigned{kBlock} + g % 4 * 4;
        const std::size_t known = there(block) * kBlock + g % 4 * 4;
        const float4 scale = *reinterpret_cast<const float4*>(a.scales + known);
        const float4 length = *reinterpret_cast<const float4*>(a.lengths + known);
        const float4 error = *reinterpret_cast<const float4*>(a.errors + known);
        const auto consider = [&](unsigned query, unsigned v, std::int32_t one, std::int32_t two, float s, float l,
                                  float e) {
            if (first_query + query >= a.count) return;
            const Bound& b = bounds[query].bound;
            float product = b.term[0] * static_cast<float>(one - b.correction[0]);
            if (BothTerms) product += b.term[1] * static_cast<float>(two - b.correction[1]);
            const float bound = s * product + b.query_length * e + b.rest_length[kEach - 1] * l;
            // No number, from a damaged file: like a vector of which nothing is known.
            if (!Sample && bound < bounds[query].threshold) return;
            const bool any = a.may_be_found(row + v);
            const Found found{first_query + query, static_cast<std::int32_t>(row + v),
                              bound == bound ? bound : std::numeric_limits<float>::infinity()};
            if (Sample) {
                const std::size_t place = pair * kPair + g / 4 * kBlock + g % 4 * 4 + v;
                a.candidates[found.query * a.plan.capacity + place] =
                    any ? Candidate{found.bound, found.id} : Candidate{0, -1};
            } else if (any) {
                const unsigned place = atomicAdd(&waiting[warp].count, 1u);
                if (place < kFoundRoom) {
                    waiting[warp].found[place] = found;
                } else {
                    keep(a, found);
                }
            }
        };
#pragma unroll
        for (unsigned n = 0; n < Tiles; ++n) {
#pragma unroll
            for (unsigned v = 0; v < 4; ++v) {
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
        __syncwarp();  // lanes have parted ways, and the next product is the whole warp's
        if (!Sample) {
            const bool many = waiting[warp].count > kFoundRoom / 2;
            __syncwarp();
            if (many) hand_over(a, waiting[warp]);
        }
    }
    if (!Sample) hand_over(a, waiting[warp]);
}

}  // namespace care::cuda
