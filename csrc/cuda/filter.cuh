// Score bounds from int8 codes on the tensor cores. Vectors whose bound reaches the threshold of a query become
// candidates; no score matrix is written.
//
// A warp processes two blocks of vectors at a time. Each lane loads 16 bytes: four values of four vectors, which are
// rows g and g + 8 of two products. So codes go from global memory to the tensor cores without shared memory. The
// mapping of vectors to rows only matters at the end: lane 4 g + t has the vectors 4 (g % 4) ... + 3 of block g / 4.
#pragma once

#include "arguments.cuh"
#include "block.cuh"

namespace care::cuda {

// The constants of a query, in shared memory.
struct alignas(16) SharedQueryBound {
    QueryBound bound;
    float threshold;
};
static_assert(sizeof(SharedQueryBound) == kConstantsBytes);

inline std::size_t filter_shared_bytes(const Plan& plan) {
    return plan.block_groups * (plan.group_bytes() + plan.queries_of_group() * sizeof(SharedQueryBound));
}

// Where a group has the constants of a query. With many tiles the even queries of a tile come first, then the odd ones:
// the four that lanes read at once are then in different banks.
template <unsigned Tiles>
__device__ constexpr unsigned place_of(unsigned query) {
    constexpr unsigned kTile = kTileColumns;
    return wide(Tiles) ? query / kTile * kTile + query % 2 * (kTile / 2) + query % kTile / 2 : query;
}

inline std::size_t encode_shared_bytes(std::size_t query_width) { return query_width * sizeof(double); }

// Quantises a query, and initialises what later kernels read.
__global__ void __launch_bounds__(kThreads) encode_queries(Arguments a) {
    __shared__ double scratch[kThreads / kWarp];
    const std::size_t query = blockIdx.x;
    const std::size_t terms = a.plan.both_terms ? 2 : 1;
    const std::size_t column = query % a.plan.queries_of_group() * terms;
    std::uint8_t* packed = a.packed_queries + query / a.plan.queries_of_group() * a.plan.group_bytes();
    // Columns beyond the last query stay uninitialised: their sums are ignored.
    const auto store = [&](std::size_t term, std::size_t j, std::int8_t code) {
        if (term >= terms) return;
        const std::size_t step = j / 32, half = j % 32 / 16, t = j % 16 / 4, c = column + term;
        const std::size_t lane = c % kTileColumns * 4 + t;
        packed[(((step * a.plan.tiles + c / kTileColumns) * kWarp + lane) * 2 + half) * 4 + j % 4] =
            static_cast<std::uint8_t>(code);
    };
    // Zeros up to the last step: there the vectors have codes, or the loads give zeros.
    for (std::size_t j = a.query_width + threadIdx.x; j < a.plan.steps * 32; j += kThreads) {
        for (std::size_t term = 0; term < terms; ++term) store(term, j, 0);
    }
    const QueryCode code =
        encode_query(ThreadBlock(scratch), a.queries + query * a.query_width, a.query_width, a.mean, a.exponent, 127,
                     static_cast<double*>(shared_memory()), store);
    if (threadIdx.x > 0) return;
    a.query_codes[query] = code;
    a.thresholds[query] = -std::numeric_limits<float>::infinity();
    a.candidate_counts[query] = a.finished_parts[query] = 0;
    if (a.rescored) a.rescored[query] = 0;
    if (!a.plan.by_codes) a.failed_queries[query] = static_cast<unsigned>(query);
    if (query == 0) *a.failed_count = a.plan.by_codes ? 0 : static_cast<unsigned>(a.count);
}

// Candidates of a warp that are not in their queries' lists yet. Appending to a list waits for memory, so a warp
// appends many of them at once.
struct FoundCandidate {
    unsigned query;
    std::int32_t id;
    float bound;
};
inline constexpr unsigned kBufferCapacity = 64;

struct CandidateBuffer {
    FoundCandidate candidates[kBufferCapacity];
    unsigned count;
};

__device__ inline void append(const Arguments& a, const FoundCandidate& found) {
    const unsigned place = atomicAdd(a.candidate_counts + found.query, 1u);
    if (place < a.plan.capacity) a.candidates[found.query * a.plan.capacity + place] = {found.bound, found.id};
}

// Appends the candidates of a buffer to the lists. All lanes of the warp must call it together.
__device__ inline void flush(const Arguments& a, CandidateBuffer& buffer) {
    __syncwarp();
    const unsigned count = buffer.count < kBufferCapacity ? buffer.count : kBufferCapacity;
    for (unsigned i = threadIdx.x % kWarp; i < count; i += kWarp) append(a, buffer.candidates[i]);
    __syncwarp();
    if (threadIdx.x % kWarp == 0) buffer.count = 0;
    __syncwarp();
}

// A lane's part of the codes of some steps.
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
__global__ void __launch_bounds__(kThreads, blocks_at_once(Tiles)) filter(Arguments a) {
    constexpr unsigned kTerms = BothTerms ? 2 : 1, kStepsPerLoad = steps_per_load(Tiles);
    constexpr unsigned kQueries = Tiles * kTileColumns / kTerms;
    __shared__ CandidateBuffer buffers[kThreads / kWarp];
    const auto bytes = [&a] { return (wide(Tiles) ? a.plan.block_groups : 1) * a.plan.group_bytes(); };
    uint2* packed = static_cast<uint2*>(shared_memory());
    SharedQueryBound* bounds = reinterpret_cast<SharedQueryBound*>(packed + bytes() / sizeof(uint2));
    const unsigned block_groups = wide(Tiles) ? static_cast<unsigned>(a.plan.block_groups) : 1;
    const unsigned first_of_block = blockIdx.y * block_groups * kQueries;
    const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, g = lane / 4, t = lane % 4;
    // Where a block has two groups of columns, two warps next to each other multiply the same vectors, by a group each.
    const unsigned teams = kThreads / kWarp / block_groups, team = warp / block_groups, own = warp % block_groups;
    const unsigned first_query = first_of_block + own * kQueries;
    if (lane == 0) buffers[warp].count = 0;
    synchronize_with_previous_kernel();

    const uint4* const from = reinterpret_cast<const uint4*>(a.packed_queries + blockIdx.y * bytes());
    for (unsigned i = threadIdx.x; i < bytes() / sizeof(uint4); i += kThreads) {
        reinterpret_cast<uint4*>(packed)[i] = from[i];
    }
    for (unsigned i = threadIdx.x; i < block_groups * kQueries && first_of_block + i < a.count; i += kThreads) {
        bounds[place_of<Tiles>(i)] = {a.query_codes[first_of_block + i].bound, a.thresholds[first_of_block + i]};
    }
    __syncthreads();
    packed += own * a.plan.group_bytes() / sizeof(uint2);
    bounds += own * kQueries;
    if (wide(Tiles) && first_query >= a.count) return;  // the last pass has fewer queries

    const unsigned group_count = static_cast<unsigned>(groups(a.width)), steps = static_cast<unsigned>(a.plan.steps);
    const unsigned block_count = static_cast<unsigned>(blocks(a.rows));
    const unsigned pair_count = static_cast<unsigned>(Sample ? a.plan.sample_pairs : a.plan.pairs);
    const unsigned stride = Sample ? static_cast<unsigned>(a.plan.stride) : 1;
    // The pairs of a sample are spread over all thread blocks.
    const unsigned all_teams = gridDim.x * teams;
    const unsigned first_pair = Sample ? team * gridDim.x + blockIdx.x : blockIdx.x * teams + team;
    // The last pair may lack its second block. The last block is multiplied instead, and is_allowed() rejects its rows.
    const auto block_of = [&](unsigned pair) { return pair * stride * unsigned{kPairBlocks} + g / 4; };
    const auto clamped = [&](unsigned block) { return block < block_count ? block : block_count - 1; };
    const auto codes_of = [&](unsigned pair) {
        return reinterpret_cast<const uint4*>(a.bytes + clamped(block_of(pair)) * a.stride) + g % 4;
    };

    // With many columns the next codes are loaded during the multiplication, those of the next pair too. With few
    // columns memory bandwidth is the limit, and longer runs of loads are faster. With 16 tiles eight warps are all that a
    // multiprocessor has: each has 4 KiB on their way, together 32, or 16 where two ask for the same (the second finds
    // them in a cache). The bandwidth of an H100 needs some 18: 3.3 TB/s x 700 ns / 132 multiprocessors.
    constexpr bool kDoubleBuffered = double_buffered(Tiles);
    Loaded<kStepsPerLoad> next;
    if (kDoubleBuffered && first_pair < pair_count) next.load(codes_of(first_pair), 0, group_count);
    for (unsigned pair = first_pair; pair < pair_count; pair += all_teams) {
        std::int32_t sums[2][Tiles][4] = {};
        for (unsigned start = 0; start < steps; start += kStepsPerLoad) {
            if (!kDoubleBuffered) next.load(codes_of(pair), start, group_count);
            const Loaded<kStepsPerLoad> now = next;
            const bool last = start + kStepsPerLoad >= steps;
            const unsigned next_pair = last ? pair + all_teams : pair;
            if (kDoubleBuffered && next_pair < pair_count) {
                next.load(codes_of(next_pair), last ? 0 : start + kStepsPerLoad, group_count);
            }
#pragma unroll
            for (unsigned s = 0; s < kStepsPerLoad; ++s) {
#pragma unroll
                for (unsigned n = 0; n < Tiles; ++n) {
                    const uint2 query = packed[((start + s) * Tiles + n) * kWarp + lane];
                    multiply(sums[0][n], now.low[s].x, now.low[s].y, now.high[s].x, now.high[s].y, query.x, query.y);
                    multiply(sums[1][n], now.low[s].z, now.low[s].w, now.high[s].z, now.high[s].w, query.x, query.y);
                }
            }
        }

        const unsigned block = block_of(pair), row = block * unsigned{kBlock} + g % 4 * 4;
        const std::size_t at = clamped(block) * kBlock + g % 4 * 4;
        const float4 scales = *reinterpret_cast<const float4*>(a.scales + at);
        const float4 code_norms = *reinterpret_cast<const float4*>(a.code_norms + at);
        const float4 errors = *reinterpret_cast<const float4*>(a.errors + at);
        const auto test_bound = [&](unsigned query, unsigned v, std::int32_t first_sum, std::int32_t second_sum,
                                    float scale, float code_norm, float error) {
            if (first_query + query >= a.count) return;
            const QueryBound& b = bounds[place_of<Tiles>(query)].bound;
            float product = b.term_scale[0] * static_cast<float>(first_sum - b.correction[0]);
            if (BothTerms) product += b.term_scale[1] * static_cast<float>(second_sum - b.correction[1]);
            const float bound = scale * product + b.query_norm * error + b.remainder_norm[kTerms - 1] * code_norm;
            // NaN comes from a damaged file: such a vector is always rescored.
            if (!Sample && bound < bounds[place_of<Tiles>(query)].threshold) return;
            const bool allowed = a.is_allowed(row + v);
            const FoundCandidate found{first_query + query, static_cast<std::int32_t>(row + v),
                                       bound == bound ? bound : std::numeric_limits<float>::infinity()};
            if (Sample) {
                const std::size_t place = pair * kPair + g / 4 * kBlock + g % 4 * 4 + v;
                a.candidates[found.query * a.plan.capacity + place] =
                    allowed ? Candidate{found.bound, found.id} : Candidate{0, -1};
            } else if (allowed) {
                const unsigned place = atomicAdd(&buffers[warp].count, 1u);
                if (place < kBufferCapacity) {
                    buffers[warp].candidates[place] = found;
                } else {
                    append(a, found);
                }
            }
        };
#pragma unroll
        for (unsigned tile = 0; tile < Tiles; ++tile) {
#pragma unroll
            for (unsigned v = 0; v < 4; ++v) {
                const std::int32_t first = sums[v / 2][tile][v % 2 * 2], second = sums[v / 2][tile][v % 2 * 2 + 1];
                const float s = v == 0 ? scales.x : v == 1 ? scales.y : v == 2 ? scales.z : scales.w;
                const float n = v == 0 ? code_norms.x : v == 1 ? code_norms.y : v == 2 ? code_norms.z : code_norms.w;
                const float e = v == 0 ? errors.x : v == 1 ? errors.y : v == 2 ? errors.z : errors.w;
                if (BothTerms) {
                    test_bound(tile * kTileColumns / 2 + t, v, first, second, s, n, e);
                } else {
                    test_bound(tile * kTileColumns + 2 * t, v, first, 0, s, n, e);
                    test_bound(tile * kTileColumns + 2 * t + 1, v, second, 0, s, n, e);
                }
            }
        }
        __syncwarp();  // lanes have diverged, and the next product needs the whole warp
        if (!Sample) {
            const bool nearly_full = buffers[warp].count > kBufferCapacity / 2;
            __syncwarp();
            if (nearly_full) flush(a, buffers[warp]);
        }
    }
    if (!Sample) flush(a, buffers[warp]);
}

}  // namespace care::cuda
