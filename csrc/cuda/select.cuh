// The likeliest of many candidates, without sorting them.
#pragma once

#include <bit>

#include "arguments.cuh"
#include "block.cuh"

namespace care::cuda {

// Numbers in the order of bounds, which are not NaN; 0 stands for no candidate.
__device__ inline unsigned key_of(const Candidate& candidate) {
    const unsigned bits = std::bit_cast<unsigned>(candidate.bound);
    return candidate.id < 0 ? 0 : bits >> 31 ? ~bits : bits | 0x80000000u;
}

// Candidates of which a thread loads several before it looks at the first.
inline constexpr unsigned kLoaded = 8;
inline constexpr unsigned kRound = kLoaded * kSelectThreads;

// work(candidate) for each of a list, with an absent one where a round goes beyond it.
template <typename Work>
__device__ void each_of_round(const Candidate* list, std::size_t start, std::size_t count, const Work& work) {
    Candidate loaded[kLoaded];
#pragma unroll
    for (unsigned i = 0; i < kLoaded; ++i) {
        const std::size_t at = start + i * kSelectThreads + threadIdx.x;
        loaded[i] = at < count ? list[at] : Candidate{0, -1};
    }
#pragma unroll
    for (unsigned i = 0; i < kLoaded; ++i) work(loaded[i]);
}

template <typename Work>
__device__ void each_of(const Candidate* list, std::size_t count, const Work& work) {
    for (std::size_t start = 0; start < count; start += kRound) each_of_round(list, start, count, work);
}

struct SelectRoom {
    unsigned low[kSelectThreads / kWarp], high[kSelectThreads / kWarp], totals[kSelectThreads / kWarp];
    unsigned bins[kSelectThreads];
    unsigned chosen, above;
};

// The largest key that at least `wanted` candidates reach, or one near it that not more than `most` do. Where there
// are fewer, 1, which all reach. Counts them by equal ranges of keys, then the same within the range that decides.
__device__ inline unsigned likely_key(const Candidate* list, std::size_t count, unsigned wanted, unsigned most,
                                      SelectRoom& room) {
    unsigned low = ~0u, high = 0, present = 0;
    each_of(list, count, [&](const Candidate& candidate) {
        const unsigned key = key_of(candidate);
        if (key == 0) return;
        low = key < low ? key : low;
        high = key > high ? key : high;
        ++present;
    });
    low = joined_in_block<kSelectThreads>(low, room.low, [](unsigned a, unsigned b) { return a < b ? a : b; });
    high = joined_in_block<kSelectThreads>(high, room.high, [](unsigned a, unsigned b) { return a > b ? a : b; });
    present = joined_in_block<kSelectThreads>(present, room.totals, [](unsigned a, unsigned b) { return a + b; });
    if (present <= most) return 1;

    const unsigned me = threadIdx.x, warp = me / kWarp;
    unsigned beyond = 0;  // how many have keys above `high`
    for (;;) {
        unsigned shift = 0;
        while ((high - low) >> shift >= kSelectThreads) ++shift;
        room.bins[me] = 0;
        __syncthreads();
        each_of(list, count, [&](const Candidate& candidate) {
            const unsigned key = key_of(candidate);
            if (key >= low && key <= high) atomicAdd(room.bins + ((key - low) >> shift), 1u);
        });
        __syncthreads();
        const unsigned mine = room.bins[me];
        const unsigned total = joined_in_warp(mine, [](unsigned a, unsigned b) { return a + b; });
        if (me % kWarp == 0) room.totals[warp] = total;
        __syncthreads();
        unsigned above = beyond;
#pragma unroll
        for (unsigned w = 0; w < kSelectThreads / kWarp; ++w) above += w > warp ? room.totals[w] : 0;
#pragma unroll
        for (unsigned i = 0; i < kWarp; ++i) above += i > me % kWarp ? room.bins[warp * kWarp + i] : 0;
        if (above < wanted && above + mine >= wanted) {
            room.chosen = me;
            room.above = above;
        }
        __syncthreads();
        const unsigned chosen = room.chosen, reached = room.above + room.bins[chosen];
        beyond = room.above;
        low += chosen << shift;
        if (shift == 0 || reached <= most) return low;
        high = low + ((1u << shift) - 1) < high ? low + ((1u << shift) - 1) : high;
        __syncthreads();
    }
}

}  // namespace care::cuda
