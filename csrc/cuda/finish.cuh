// From candidates to hits, one block a query; and every vector exactly for queries that codes did not help.
#pragma once

#include "arguments.cuh"
#include "block.cuh"
#include "select.cuh"

namespace care::cuda {

inline constexpr unsigned kScoredAtOnce = kSelectThreads / kLanes;

// So many candidates are scored in as many rounds as k are.
__device__ inline unsigned scored_anyway(std::size_t k) {
    return static_cast<unsigned>((k + kScoredAtOnce - 1) / kScoredAtOnce * kScoredAtOnce);
}

struct ScoreRoom {
    std::int32_t ids[kRound + kSelectThreads];
    unsigned count;
};

// Exact scores of the candidates that are wanted go to `best`, and their number is returned.
template <typename Wanted>
__device__ unsigned score_where(const Wanted& wanted, Best& best, const Arguments& a, std::size_t query,
                                const Candidate* list, std::size_t count, ScoreRoom& room) {
    unsigned scored = 0;
    __syncthreads();
    if (threadIdx.x == 0) room.count = 0;
    __syncthreads();
    for (std::size_t first = 0; first < count; first += kRound) {
        each_of_round(list, first, count, [&](unsigned, const Candidate& candidate) {
            if (candidate.id < 0 || !wanted(candidate)) return;
            room.ids[atomicAdd(&room.count, 1u)] = candidate.id;
            // On its way before the threads that need it have found out.
            const float* const vector = a.vectors + static_cast<std::size_t>(candidate.id) * a.width;
            constexpr std::size_t kLine = 128 / sizeof(float);
            for (std::size_t j = 0; j < a.searched; j += kLine) prefetch(vector + j);
        });
        __syncthreads();
        // Few wait for those of the next round: as many threads score them in the same time.
        const unsigned waiting = room.count;
        __syncthreads();  // or who goes on adds to it before all have read it, and they part ways
        if (waiting <= kSelectThreads && first + kRound < count) continue;
        for (unsigned start = 0; start < waiting; start += kScoredAtOnce) {
            const unsigned place = start + threadIdx.x / kLanes;
            const bool any = place < waiting;
            const std::int64_t row = any ? room.ids[place] : 0;
            const double score = score_by_lanes(a.vectors + static_cast<std::size_t>(row) * a.width,
                                                a.queries + query * a.searched, any ? a.searched : 0);
            best.offer(any && threadIdx.x % kLanes == 0, {score, row});
        }
        scored += waiting;
        __syncthreads();
        if (threadIdx.x == 0) room.count = 0;
        __syncthreads();
    }
    best.sort();
    return scored;
}

__device__ inline void write_hits(const Best& best, const Arguments& a, std::size_t query) {
    for (unsigned i = threadIdx.x; i < a.k; i += kSelectThreads) {
        const bool any = i < best.count();
        const double score = any ? best[i].score : kNothing;
        if (a.scores) a.scores[query * a.k + i] = score;
        if (a.rounded) a.rounded[query * a.k + i] = static_cast<float>(score);
        if (a.ids) a.ids[query * a.k + i] = any ? best[i].id : -1;
    }
}

// The threshold that a sample gives: the k-th exact score of its likeliest vectors.
__global__ void __launch_bounds__(kSelectThreads, 2) raise_thresholds(Arguments a) {
    __shared__ unsigned exact_count;
    __shared__ ScoreRoom scoring;
    take_turn();
    const std::size_t query = blockIdx.x, count = a.plan.sample_pairs * kPair;
    const Candidate* const list = a.candidates + query * a.plan.capacity;
    Best exact(static_cast<Hit*>(shared_memory()), &exact_count, a.k);
    const unsigned likely = likely_key(list, count, static_cast<unsigned>(a.k), scored_anyway(a.k));
    score_where([&](const Candidate& candidate) { return key_of(candidate) >= likely; }, exact, a, query, list, count,
                scoring);
    if (exact.full() && threadIdx.x == 0) a.thresholds[query] = threshold(a.codes[query], exact.last().score);
}

// Best first: the likeliest candidates are scored, then what the k-th score among them cannot rule out.
__global__ void __launch_bounds__(kSelectThreads, 2) finish(Arguments a) {
    __shared__ unsigned exact_count;
    __shared__ ScoreRoom scoring;
    take_turn();
    const std::size_t query = blockIdx.x, count = a.counts[query];
    if (count > a.plan.capacity) {
        if (threadIdx.x == 0) a.hopeless[atomicAdd(a.hopeless_count, 1u)] = static_cast<unsigned>(query);
        return;
    }
    const Candidate* const list = a.candidates + query * a.plan.capacity;
    Best exact(static_cast<Hit*>(shared_memory()), &exact_count, a.k);
    const unsigned likely = likely_key(list, count, static_cast<unsigned>(a.k), scored_anyway(a.k));
    unsigned scored = score_where([&](const Candidate& candidate) { return key_of(candidate) >= likely; }, exact, a,
                                  query, list, count, scoring);
    if (likely > 1) {
        const float least = threshold(a.codes[query], exact.last().score);
        scored += score_where(
            [&](const Candidate& candidate) { return key_of(candidate) < likely && !(candidate.bound < least); },
            exact, a, query, list, count, scoring);
    }
    write_hits(exact, a, query);
    if (threadIdx.x == 0 && a.rescored) a.rescored[query] = scored;
}

// Blocks share the queries for which codes did not pay, and the vectors of each; the last one of a query joins what
// they found.
__global__ void __launch_bounds__(kSelectThreads, 2) score_all(Arguments a) {
    __shared__ unsigned exact_count, done;
    take_turn();
    const unsigned hopeless = *a.hopeless_count;
    if (hopeless == 0) return;
    const unsigned parts = a.exhaustive_blocks / hopeless, place = blockIdx.x / parts, part = blockIdx.x % parts;
    if (place >= hopeless) return;
    const std::size_t query = a.hopeless[place];
    Best exact(static_cast<Hit*>(shared_memory()), &exact_count, a.k);
    unsigned long long scored = 0;
    for (std::size_t start = part * kScoredAtOnce; start < a.rows; start += parts * kScoredAtOnce) {
        const std::size_t row = start + threadIdx.x / kLanes;
        const bool any = a.may_be_found(row);
        const double score = score_by_lanes(a.vectors + (any ? row : 0) * a.width, a.queries + query * a.searched,
                                            any ? a.searched : 0);
        const bool mine = any && threadIdx.x % kLanes == 0;
        scored += mine;
        exact.offer(mine, {score, static_cast<std::int64_t>(row)});
    }
    exact.sort();
    if (a.rescored && scored > 0) atomicAdd(reinterpret_cast<unsigned long long*>(a.rescored + query), scored);
    if (parts > 1) {
        Hit* const list = a.parts + static_cast<std::size_t>(place) * parts * a.k;
        for (unsigned i = threadIdx.x; i < a.k; i += kSelectThreads) {
            list[part * a.k + i] = i < exact.count() ? exact[i] : Hit{kNothing, kNoId};
        }
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) done = atomicAdd(a.parts_done + place, 1u);
        __syncthreads();
        if (done + 1 < parts) return;
        __threadfence();
        // Its own hits are among them.
        Best joined(static_cast<Hit*>(shared_memory()), &exact_count, a.k);
        for (std::size_t start = 0; start < parts * a.k; start += kSelectThreads) {
            const std::size_t i = start + threadIdx.x;
            const Hit hit = i < parts * a.k ? list[i] : Hit{kNothing, kNoId};
            joined.offer(hit.id != kNoId, hit);
        }
        joined.sort();
        write_hits(joined, a, query);
        return;
    }
    write_hits(exact, a, query);
}

}  // namespace care::cuda
