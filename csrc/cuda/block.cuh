// Work that the threads of a block share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "care/score.hpp"
#include "care/topk.hpp"
#include "primitives.cuh"

namespace care::cuda {

// Of blocks that code queries and multiply; and of those that select, where one block has a query to itself.
inline constexpr unsigned kThreads = 256;
inline constexpr unsigned kSelectThreads = 512;
inline constexpr unsigned kWarp = 32;
inline constexpr double kNothing = -std::numeric_limits<double>::infinity();
// The worst of all: fills what is not there.
inline constexpr std::int64_t kNoId = std::numeric_limits<std::int64_t>::max();

template <typename Value, typename Join>
__device__ Value joined_in_warp(Value mine, const Join& join) {
    for (int apart = kWarp / 2; apart > 0; apart /= 2) mine = join(mine, __shfl_xor_sync(kAllLanes, mine, apart));
    return mine;
}

// Every thread of a block gets the same result. `room` is shared, for one value of each warp.
template <unsigned Threads, typename Value, typename Join>
__device__ Value joined_in_block(Value mine, Value* room, const Join& join) {
    mine = joined_in_warp(mine, join);
    __syncthreads();
    if (threadIdx.x % kWarp == 0) room[threadIdx.x / kWarp] = mine;
    __syncthreads();
    Value all = room[0];
#pragma unroll
    for (unsigned warp = 1; warp < Threads / kWarp; ++warp) all = join(all, room[warp]);
    return all;
}

// A block for encode_query.
class Block {
public:
    __device__ explicit Block(double* room) : room_(room) {}

    template <typename Work>
    __device__ void each(std::size_t count, const Work& work) const {
        for (std::size_t j = threadIdx.x; j < count; j += kThreads) work(j);
    }

    template <typename Term>
    __device__ double sum(std::size_t count, const Term& term) const {
        double mine = 0;
        each(count, [&](std::size_t j) { mine += term(j); });
        return joined_in_block<kThreads>(mine, room_, [](double a, double b) { return a + b; });
    }

    template <typename Term>
    __device__ double largest(std::size_t count, const Term& term) const {
        double mine = 0;
        each(count, [&](std::size_t j) { mine = fmax(mine, term(j)); });
        return joined_in_block<kThreads>(mine, room_, [](double a, double b) { return fmax(a, b); });
    }

private:
    double* room_;
};

// The score of care/score.hpp, by eight lanes that each add every eighth product; all of them get it. Whole warps
// call it together; a lane without work passes width 0.
__device__ inline double score_by_lanes(const float* vector, const float* query, std::size_t width) {
    // So many loads are under way at once: a vector comes from memory in few rounds.
    constexpr int kAtOnce = 24;
    const int lane = static_cast<int>(threadIdx.x % kLanes), step = static_cast<int>(kLanes);
    vector += lane;
    query += lane;
    double sum = 0;
    for (int left = static_cast<int>(width) - lane; left > 0; left -= kAtOnce * step) {
        float values[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) values[i] = i * step < left ? __ldg(vector + i * step) : 0;
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
            // What is beyond the width adds +0, which changes no sum: none is -0.
            sum += double{values[i]} * double{i * step < left ? __ldg(query + i * step) : 0};
        }
        vector += kAtOnce * step;
        query += kAtOnce * step;
    }
    // The tree of care/score.hpp: lanes four apart first, neighbours last.
    sum += __shfl_xor_sync(kAllLanes, sum, 4);
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
    sum += __shfl_xor_sync(kAllLanes, sum, 1);
    return sum;
}

// How many hits `Best` has room for, a power of two: those kept, and what all threads may offer.
inline __host__ __device__ std::size_t best_room(std::size_t k) {
    std::size_t room = 2 * kSelectThreads;
    while (room < k + kSelectThreads) room *= 2;
    return room;
}

inline std::size_t best_bytes(std::size_t k) { return best_room(k) * sizeof(Hit); }

// The k best hits of what a block's threads offer, as TopK keeps them for one thread. All threads call together.
class Best {
public:
    // `hits` is shared and has room for best_room(k), `count` for one number.
    __device__ Best(Hit* hits, unsigned* count, std::size_t k)
        : hits_(hits), count_(count), k_(static_cast<unsigned>(k)), room_(static_cast<unsigned>(best_room(k))) {
        last_ = {kNothing, kNoId};
        if (threadIdx.x == 0) *count_ = 0;
        __syncthreads();
    }

    // Each thread offers one hit, or none.
    __device__ void offer(bool any, const Hit& hit) {
        if (any && better(hit, last_)) hits_[atomicAdd(count_, 1u)] = hit;
        __syncthreads();
        const bool full = *count_ + kSelectThreads > room_;
        __syncthreads();
        if (full) sort();
    }

    // Puts the best in order and drops what is not among them.
    __device__ void sort() {
        const unsigned count = *count_;
        if (count <= kFew) {
            sort_few(count);
        } else {
            sort_many(count);
        }
        if (threadIdx.x == 0) *count_ = count < k_ ? count : k_;
        __syncthreads();
        if (full()) last_ = hits_[k_ - 1];
    }

    // After `sort`.
    __device__ unsigned count() const { return *count_; }
    __device__ bool full() const { return *count_ == k_; }
    __device__ const Hit& last() const { return last_; }
    __device__ const Hit& operator[](unsigned place) const { return hits_[place]; }

private:
    // Up to so many, a thread that counts which are better has a hit's place sooner than a network sorts.
    static constexpr unsigned kFew = 128;

    __device__ void sort_few(unsigned count) {
        const unsigned me = threadIdx.x;
        const Hit mine = me < count ? hits_[me] : Hit{kNothing, kNoId};
        unsigned place = 0;
        if (me < count) {
            for (unsigned i = 0; i < count; ++i) place += better(hits_[i], mine);
        }
        __syncthreads();
        if (me < count) hits_[place] = mine;
        __syncthreads();
    }

    __device__ void sort_many(unsigned count) {
        unsigned size = 2;
        while (size < count) size *= 2;
        for (unsigned i = count + threadIdx.x; i < size; i += kSelectThreads) hits_[i] = {kNothing, kNoId};
        __syncthreads();
        for (unsigned run = 2; run <= size; run *= 2) {
            for (unsigned apart = run / 2; apart > 0; apart /= 2) {
                for (unsigned i = threadIdx.x; i < size / 2; i += kSelectThreads) {
                    const unsigned low = i / apart * 2 * apart + i % apart, high = low + apart;
                    const bool descending = (low & run) == 0;
                    if (better(hits_[high], hits_[low]) == descending) {
                        const Hit other = hits_[low];
                        hits_[low] = hits_[high];
                        hits_[high] = other;
                    }
                }
                __syncthreads();
            }
        }
    }

    Hit* hits_;
    unsigned* count_;
    unsigned k_, room_;
    Hit last_;  // the k-th when there are as many: what is not better need not be kept
};

}  // namespace care::cuda
