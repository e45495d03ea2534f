// From candidates to hits, one block per query; and an exhaustive scan for queries whose pruning failed.
#pragma once

#include "arguments.cuh"
#include "block.cuh"
#include "select.cuh"

namespace care::cuda {

// Candidates that a block scores at once, eight lanes each.
inline constexpr unsigned kScoringBatch = kSelectThreads / kLanes;

// k, rounded up to whole batches: the rest of the last batch costs nothing.
__device__ inline unsigned rounded_to_batches(std::size_t k) {
    return static_cast<unsigned>((k + kScoringBatch - 1) / kScoringBatch * kScoringBatch);
}

struct ScoreBuffer {
    std::int32_t ids[kRound + kSelectThreads];
    unsigned count;
};

// Scores the candidates that `wanted` selects, pushes them to `best`, and returns their number.
template <typename Wanted>
__device__ unsigned score_where(const Wanted& wanted, BlockTopK& best, const Arguments& a, std::size_t query,
                                const Candidate* list, std::size_t count, ScoreBuffer& buffer) {
    unsigned scored = 0;
    __syncthreads();
    if (threadIdx.x == 0) buffer.count = 0;
    __syncthreads();
    for (std::size_t first = 0; first < count; first += kRound) {
        for_each_in_round(list, first, count, [&](unsigned, const Candidate& candidate) {
            if (candidate.id < 0 || !wanted(candidate)) return;
            buffer.ids[atomicAdd(&buffer.count, 1u)] = candidate.id;
            // Before other threads need it.
            const float* const vector = a.vectors + static_cast<std::size_t>(candidate.id) * a.width;
            constexpr std::size_t kLine = 128 / sizeof(float);
            for (std::size_t j = 0; j < a.query_width; j += kLine) prefetch(vector + j);
        });
        __syncthreads();
        // A few are left for the next round, so that batches are full.
        const unsigned waiting = buffer.count;
        // Otherwise a thread could add to the count before all have read it, and branches would diverge.
        __syncthreads();
        if (waiting <= kSelectThreads && first + kRound < count) continue;
        for (unsigned start = 0; start < waiting; start += kScoringBatch) {
            const unsigned place = start + threadIdx.x / kLanes;
            const bool any = place < waiting;
            const std::int64_t row = any ? buffer.ids[place] : 0;
            const double score = score_by_lanes(a.vectors + static_cast<std::size_t>(row) * a.width,
                                                a.queries + query * a.query_width, any ? a.query_width : 0);
            best.push(any && threadIdx.x % kLanes == 0, {score, row});
        }
        scored += waiting;
        __syncthreads();
        if (threadIdx.x == 0) buffer.count = 0;
        __syncthreads();
    }
    best.sort();
    return scored;
}

__device__ inline void write_hits(const BlockTopK& best, const Arguments& a, std::size_t query) {
    for (unsigned i = threadIdx.x; i < a.k; i += kSelectThreads) {
        const bool any = i < best.count();
        const double score = any ? best[i].score : kNegativeInfinity;
        if (a.scores) a.scores[query * a.k + i] = score;
        if (a.float_scores) a.float_scores[query * a.k + i] = static_cast<float>(score);
        if (a.ids) a.ids[query * a.k + i] = any ? best[i].id : -1;
    }
}

// Sets the thresholds from the sample: the k-th exact score of its best candidates.
__global__ void __launch_bounds__(kSelectThreads, 2) update_thresholds(Arguments a) {
    __shared__ unsigned exact_count;
    __shared__ ScoreBuffer buffer;
    synchronize_with_previous_kernel();
    const std::size_t query = blockIdx.x, count = a.plan.sample_pairs * kPair;
    const Candidate* const list = a.candidates + query * a.plan.capacity;
    BlockTopK exact(static_cast<Hit*>(shared_memory()), &exact_count, a.k);
    const unsigned first_key = selection_key(list, count, static_cast<unsigned>(a.k), rounded_to_batches(a.k));
    score_where([&](const Candidate& candidate) { return key_of(candidate) >= first_key; }, exact, a, query, list,
                count, buffer);
    if (exact.full() && threadIdx.x == 0) a.thresholds[query] = threshold(a.query_codes[query], exact.kth().score);
}

// Scores the k best candidates of each query first, then those that the k-th exact score cannot prune.
__global__ void __launch_bounds__(kSelectThreads, 2) finish(Arguments a) {
    __shared__ unsigned exact_count;
    __shared__ ScoreBuffer buffer;
    synchronize_with_previous_kernel();
    const std::size_t query = blockIdx.x, count = a.candidate_counts[query];
    if (count > a.plan.capacity) {
        if (threadIdx.x == 0) a.failed_queries[atomicAdd(a.failed_count, 1u)] = static_cast<unsigned>(query);
        return;
    }
    const Candidate* const list = a.candidates + query * a.plan.capacity;
    BlockTopK exact(static_cast<Hit*>(shared_memory()), &exact_count, a.k);
    const unsigned first_key = selection_key(list, count, static_cast<unsigned>(a.k), rounded_to_batches(a.k));
    unsigned scored = score_where([&](const Candidate& candidate) { return key_of(candidate) >= first_key; }, exact, a,
                                  query, list, count, buffer);
    if (first_key > 1) {
        const float least = threshold(a.query_codes[query], exact.kth().score);
        scored += score_where(
            [&](const Candidate& candidate) { return key_of(candidate) < first_key && !(candidate.bound < least); },
            exact, a, query, list, count, buffer);
    }
    write_hits(exact, a, query);
    if (threadIdx.x == 0 && a.rescored) a.rescored[query] = scored;
}

// Scores every vector for queries whose pruning failed. Blocks divide the queries and their vectors; the last block of
// a query merges the hits.
__global__ void __launch_bounds__(kSelectThreads, 2) score_all(Arguments a) {
    __shared__ unsigned exact_count, done;
    synchronize_with_previous_kernel();
    const unsigned failed = *a.failed_count;
    if (failed == 0) return;
    const unsigned parts = a.exhaustive_blocks / failed, place = blockIdx.x / parts, part = blockIdx.x % parts;
    if (place >= failed) return;
    const std::size_t query = a.failed_queries[place];
    BlockTopK exact(static_cast<Hit*>(shared_memory()), &exact_count, a.k);
    unsigned long long scored = 0;
    for (std::size_t start = part * kScoringBatch; start < a.rows; start += parts * kScoringBatch) {
        const std::size_t row = start + threadIdx.x / kLanes;
        const bool any = a.is_allowed(row);
        const double score = score_by_lanes(a.vectors + (any ? row : 0) * a.width, a.queries + query * a.query_width,
                                            any ? a.query_width : 0);
        const bool mine = any && threadIdx.x % kLanes == 0;
        scored += mine;
        exact.push(mine, {score, static_cast<std::int64_t>(row)});
    }
    exact.sort();
    if (a.rescored && scored > 0) atomicAdd(reinterpret_cast<unsigned long long*>(a.rescored + query), scored);
    if (parts > 1) {
        Hit* const list = a.partial_hits + static_cast<std::size_t>(place) * parts * a.k;
        for (unsigned i = threadIdx.x; i < a.k; i += kSelectThreads) {
            list[part * a.k + i] = i < exact.count() ? exact[i] : Hit{kNegativeInfinity, kInvalidId};
        }
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) done = atomicAdd(a.finished_parts + place, 1u);
        __syncthreads();
        if (done + 1 < parts) return;
        __threadfence();
        // The list includes the hits of this block.
        BlockTopK joined(static_cast<Hit*>(shared_memory()), &exact_count, a.k);
        for (std::size_t start = 0; start < parts * a.k; start += kSelectThreads) {
            const std::size_t i = start + threadIdx.x;
            const Hit hit = i < parts * a.k ? list[i] : Hit{kNegativeInfinity, kInvalidId};
            joined.push(hit.id != kInvalidId, hit);
        }
        joined.sort();
        write_hits(joined, a, query);
        return;
    }
    write_hits(exact, a, query);
}

}  // namespace care::cuda
