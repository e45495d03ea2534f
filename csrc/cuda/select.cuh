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

// work(i, candidate) for each of a round of a list, with absent ones where the round goes beyond it.
template <typename Work>
__device__ void each_of_round(const Candidate* list, std::size_t start, std::size_t count, const Work& work) {
    Candidate loaded[kLoaded];
#pragma unroll
    for (unsigned i = 0; i < kLoaded; ++i) {
        const std::size_t at = start + i * kSelectThreads + threadIdx.x;
        loaded[i] = at < count ? list[at] : Candidate{0, -1};
    }
#pragma unroll
    for (unsigned i = 0; i < kLoaded; ++i) work(i, loaded[i]);
}

// A key that `wanted` candidates reach, and not many more; where there are hardly more, 1, which all reach.
//
// The list is dealt out to groups, several for each thread. The `wanted` largest of the groups' best are as many
// candidates, and others reach the last of them only where a group has two.
__device__ inline unsigned likely_key(const Candidate* list, std::size_t count, unsigned wanted, unsigned most) {
    if (count <= most) return 1;
    constexpr unsigned kGroups = 4, kFew = kSelectThreads / 4;
    static_assert(kLoaded % kGroups == 0 && kMostK <= kGroups * kSelectThreads / 2);
    unsigned best[kGroups] = {};
    for (std::size_t start = 0; start < count; start += kRound) {
        each_of_round(list, start, count, [&](unsigned i, const Candidate& candidate) {
            const unsigned key = key_of(candidate);
            unsigned& mine = best[i % kGroups];
            mine = key > mine ? key : mine;
        });
    }
    if (wanted <= kFew) {
        for (unsigned i = 1; i < kGroups; ++i) best[0] = best[i] > best[0] ? best[i] : best[0];
    }
    // Bit by bit the largest key that so many reach.
    unsigned found = 0;
    for (unsigned bit = 1u << 31; bit > 0; bit /= 2) {
        const unsigned key = found | bit;
        unsigned reached = static_cast<unsigned>(__syncthreads_count(best[0] >= key));
        if (wanted > kFew) {
#pragma unroll
            for (unsigned i = 1; i < kGroups; ++i) {
                reached += static_cast<unsigned>(__syncthreads_count(best[i] >= key));
            }
        }
        if (reached >= wanted) found = key;
    }
    return found > 1 ? found : 1;
}

}  // namespace care::cuda
