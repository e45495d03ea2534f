// From candidates to hits, one block a query; and every vector exactly for queries that codes did not help.
#pragma once

#include "arguments.cuh"
#include "block.cuh"

namespace care::cuda {

inline constexpr unsigned kScoredAtOnce = kThreads / kLanes;

inline std::size_t best_bytes(std::size_t k) { return best_room(k) * sizeof(Hit); }

// Exact scores of up to `count` vectors go to `best`: id(place) names them. Returns after all threads have arrived.
template <typename Id>
__device__ void score_into(Best& best, const Arguments& a, std::size_t query, unsigned count, const Id& id) {
    for (unsigned start = 0; start < count; start += kScoredAtOnce) {
        const unsigned place = start + threadIdx.x / kLanes;
        const bool any = place < count;
        const std::int64_t row = any ? id(place) : 0;
        const double score = score_by_lanes(a.vectors + static_cast<std::size_t>(row) * a.width,
                                            a.queries + query * a.searched, any ? a.searched : 0);
        best.offer(any && threadIdx.x % kLanes == 0, {score, row});
    }
}

__device__ inline void offer_candidates(Best& best, const Candidate* list, std::size_t count) {
    for (std::size_t start = 0; start < count; start += kThreads) {
        const std::size_t i = start + threadIdx.x;
        const Candidate candidate = i < count ? list[i] : Candidate{0, -1};
        best.offer(candidate.id >= 0, {candidate.bound, candidate.id});
    }
    best.sort();
}

__device__ inline void write_hits(const Best& best, const Arguments& a, std::size_t query) {
    for (unsigned i = threadIdx.x; i < a.k; i += kThreads) {
        const bool any = i < best.count();
        a.scores[query * a.k + i] = any ? best[i].score : kNothing;
        a.rounded[query * a.k + i] = static_cast<float>(any ? best[i].score : kNothing);
        a.ids[query * a.k + i] = any ? best[i].id : -1;
    }
}

// The threshold that a sample gives: the least exact score of its k likeliest vectors.
__global__ void __launch_bounds__(kThreads) raise_thresholds(Arguments a) {
    __shared__ unsigned likely_count, exact_count;
    Hit* const room = static_cast<Hit*>(shared_memory());
    const std::size_t query = blockIdx.x;
    Best likely(room, &likely_count, a.k), exact(room + best_room(a.k), &exact_count, a.k);
    offer_candidates(likely, a.candidates + query * a.plan.capacity, a.plan.sample_pairs * kPair);
    if (!likely.full()) return;
    score_into(exact, a, query, likely.count(), [&](unsigned place) { return likely[place].id; });
    exact.sort();
    if (threadIdx.x == 0) a.thresholds[query] = threshold(a.codes[query], exact.last().score);
}

// Best first: the k likeliest candidates are scored, then what their k-th score cannot rule out.
__global__ void __launch_bounds__(kThreads) finish(Arguments a) {
    __shared__ unsigned likely_count, exact_count, left_count;
    __shared__ std::int32_t left[2 * kThreads];
    Hit* const room = static_cast<Hit*>(shared_memory());
    const std::size_t query = blockIdx.x;
    const std::size_t count = a.counts[query];
    if (count > a.plan.capacity) {
        if (threadIdx.x == 0) {
            const unsigned place = atomicAdd(a.hopeless_count, 1u);
            a.hopeless[place] = static_cast<unsigned>(query);
            a.hopeless_place[query] = place;
        }
        return;
    }
    if (threadIdx.x == 0) a.hopeless_place[query] = kNowhere;
    const Candidate* const list = a.candidates + query * a.plan.capacity;
    Best likely(room, &likely_count, a.k), exact(room + best_room(a.k), &exact_count, a.k);
    offer_candidates(likely, list, count);
    score_into(exact, a, query, likely.count(), [&](unsigned place) { return likely[place].id; });
    exact.sort();
    unsigned scored = likely.count();
    if (likely.full()) {
        const float least = threshold(a.codes[query], exact.last().score);
        const auto score_left = [&] {
            const unsigned waiting = left_count;
            score_into(exact, a, query, waiting, [&](unsigned place) { return std::int64_t{left[place]}; });
            scored += waiting;
            __syncthreads();
            if (threadIdx.x == 0) left_count = 0;
            __syncthreads();
        };
        if (threadIdx.x == 0) left_count = 0;
        __syncthreads();
        for (std::size_t start = 0; start < count; start += kThreads) {
            const std::size_t i = start + threadIdx.x;
            if (i < count && list[i].bound >= least && better(likely.last(), {list[i].bound, list[i].id})) {
                left[atomicAdd(&left_count, 1u)] = list[i].id;
            }
            __syncthreads();
            const bool many = left_count > kThreads;
            __syncthreads();
            if (many) score_left();
        }
        score_left();
        exact.sort();
    }
    write_hits(exact, a, query);
    if (threadIdx.x == 0) a.rescored[query] = scored;
}

// Blocks share the queries for which codes did not pay, and the vectors of each.
__global__ void __launch_bounds__(kThreads) score_all(Arguments a) {
    __shared__ unsigned exact_count;
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
    for (unsigned i = threadIdx.x; i < a.k; i += kThreads) {
        a.parts[blockIdx.x * a.k + i] = i < exact.count() ? exact[i] : Hit{kNothing, kNoId};
    }
    if (scored > 0) atomicAdd(reinterpret_cast<unsigned long long*>(a.rescored + query), scored);
}

__global__ void __launch_bounds__(kThreads) join_parts(Arguments a) {
    __shared__ unsigned exact_count;
    const std::size_t query = blockIdx.x;
    const unsigned place = a.hopeless_place[query];
    if (place == kNowhere) return;
    const std::size_t parts = a.exhaustive_blocks / *a.hopeless_count;
    const Hit* const list = a.parts + place * parts * a.k;
    Best exact(static_cast<Hit*>(shared_memory()), &exact_count, a.k);
    for (std::size_t start = 0; start < parts * a.k; start += kThreads) {
        const std::size_t i = start + threadIdx.x;
        const Hit hit = i < parts * a.k ? list[i] : Hit{kNothing, kNoId};
        exact.offer(hit.id != kNoId, hit);
    }
    exact.sort();
    write_hits(exact, a, query);
}

}  // namespace care::cuda
