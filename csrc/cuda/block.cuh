// Operations that the threads of a block do together: reductions, exact scores, top-k selection.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "care/score.hpp"
#include "care/topk.hpp"
#include "primitives.cuh"

namespace care::cuda {

// Threads of a block that quantises queries or multiplies codes, and of a block that selects hits for one query.
inline constexpr unsigned kThreads = 256;
inline constexpr unsigned kSelectThreads = 512;
inline constexpr unsigned kWarp = 32;
inline constexpr double kNegativeInfinity = -std::numeric_limits<double>::infinity();
// With kNegativeInfinity the worst hit of all, for padding.
inline constexpr std::int64_t kInvalidId = std::numeric_limits<std::int64_t>::max();

template <typename Value, typename Join>
__device__ Value warp_reduce(Value mine, const Join& join) {
    for (int apart = kWarp / 2; apart > 0; apart /= 2) mine = join(mine, __shfl_xor_sync(kAllLanes, mine, apart));
    return mine;
}

// All threads of the block get the result. `scratch` is shared memory for one value per warp.
template <unsigned Threads, typename Value, typename Join>
__device__ Value block_reduce(Value mine, Value* scratch, const Join& join) {
    mine = warp_reduce(mine, join);
    __syncthreads();
    if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = mine;
    __syncthreads();
    Value all = scratch[0];
#pragma unroll
    for (unsigned warp = 1; warp < Threads / kWarp; ++warp) all = join(all, scratch[warp]);
    return all;
}

// The executor of encode_query on a GPU: loops and reductions over the threads of a block.
class ThreadBlock {
public:
    __device__ explicit ThreadBlock(double* scratch) : scratch_(scratch) {}

    template <typename Work>
    __device__ void for_each(std::size_t count, const Work& work) const {
        for (std::size_t j = threadIdx.x; j < count; j += kThreads) work(j);
    }

    template <typename Term>
    __device__ double sum(std::size_t count, const Term& term) const {
        double mine = 0;
        for_each(count, [&](std::size_t j) { mine += term(j); });
        return block_reduce<kThreads>(mine, scratch_, [](double a, double b) { return a + b; });
    }

    template <typename Term>
    __device__ double max(std::size_t count, const Term& term) const {
        double mine = 0;
        for_each(count, [&](std::size_t j) { mine = fmax(mine, term(j)); });
        return block_reduce<kThreads>(mine, scratch_, [](double a, double b) { return fmax(a, b); });
    }

private:
    double* scratch_;
};

// The score of care/score.hpp, computed by eight lanes that add every eighth product each; all eight get it. Whole
// warps must call this together; a lane without work passes width 0.
__device__ inline double score_by_lanes(const float* vector, const float* query, std::size_t width) {
    // Loads in flight at once, so that a vector needs few round trips to memory.
    constexpr int kLoads = 24;
    const int lane = static_cast<int>(threadIdx.x % kLanes), step = static_cast<int>(kLanes);
    vector += lane;
    query += lane;
    double sum = 0;
    for (int left = static_cast<int>(width) - lane; left > 0; left -= kLoads * step) {
        float values[kLoads];
#pragma unroll
        for (int i = 0; i < kLoads; ++i) values[i] = i * step < left ? __ldg(vector + i * step) : 0;
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
            // Beyond the width +0 is added. That changes no sum, because no sum is -0.
            sum += double{values[i]} * double{i * step < left ? __ldg(query + i * step) : 0};
        }
        vector += kLoads * step;
        query += kLoads * step;
    }
    // The tree of care/score.hpp: lanes four apart first, neighbours last.
    sum += __shfl_xor_sync(kAllLanes, sum, 4);
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
    sum += __shfl_xor_sync(kAllLanes, sum, 1);
    return sum;
}

// Capacity of BlockTopK, a power of two: the hits it keeps, and one more from every thread.
inline __host__ __device__ std::size_t top_k_capacity(std::size_t k) {
    std::size_t capacity = 2 * kSelectThreads;
    while (capacity < k + kSelectThreads) capacity *= 2;
    return capacity;
}

inline std::size_t top_k_bytes(std::size_t k) { return top_k_capacity(k) * sizeof(Hit); }

// TopK for a block: keeps the k best of the hits that its threads push. All threads must call its methods together.
class BlockTopK {
public:
    // `hits` is shared memory for top_k_capacity(k) hits, `count` for one number.
    __device__ BlockTopK(Hit* hits, unsigned* count, std::size_t k)
        : hits_(hits), count_(count), k_(static_cast<unsigned>(k)),
          capacity_(static_cast<unsigned>(top_k_capacity(k))) {
        kth_ = {kNegativeInfinity, kInvalidId};
        if (threadIdx.x == 0) *count_ = 0;
        __syncthreads();
    }

    // Each thread pushes one hit if its `any` is true.
    __device__ void push(bool any, const Hit& hit) {
        if (any && better(hit, kth_)) hits_[atomicAdd(count_, 1u)] = hit;
        __syncthreads();
        const bool full = *count_ + kSelectThreads > capacity_;
        __syncthreads();
        if (full) sort();
    }

    // Sorts the hits and drops all beyond k.
    __device__ void sort() {
        const unsigned count = *count_;
        if (count <= kFew) {
            sort_few(count);
        } else {
            sort_many(count);
        }
        if (threadIdx.x == 0) *count_ = count < k_ ? count : k_;
        __syncthreads();
        if (full()) kth_ = hits_[k_ - 1];
    }

    // After sort().
    __device__ unsigned count() const { return *count_; }
    __device__ bool full() const { return *count_ == k_; }
    __device__ const Hit& kth() const { return kth_; }
    __device__ const Hit& operator[](unsigned place) const { return hits_[place]; }

private:
    // Up to so many hits, ranking each by counting is faster than a sorting network.
    static constexpr unsigned kFew = 128;

    __device__ void sort_few(unsigned count) {
        const unsigned me = threadIdx.x;
        const Hit mine = me < count ? hits_[me] : Hit{kNegativeInfinity, kInvalidId};
        unsigned place = 0;
        if (me < count) {
            for (unsigned i = 0; i < count; ++i) place += better(hits_[i], mine);
        }
        __syncthreads();
        if (me < count) hits_[place] = mine;
        __syncthreads();
    }

    // Bitonic sort.
    __device__ void sort_many(unsigned count) {
        unsigned size = 2;
        while (size < count) size *= 2;
        for (unsigned i = count + threadIdx.x; i < size; i += kSelectThreads) {
            hits_[i] = {kNegativeInfinity, kInvalidId};
        }
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
    unsigned k_, capacity_;
    Hit kth_;  // the k-th hit once there are k: nothing worse is kept
};

}  // namespace care::cuda
