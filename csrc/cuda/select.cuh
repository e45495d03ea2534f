// Selection of the candidates with the best bounds, without sorting.
#pragma once

#include <bit>

#include "arguments.cuh"
#include "block.cuh"

namespace care::cuda {

// An unsigned integer in the order of bounds, which are never NaN; 0 for no candidate.
__device__ inline unsigned key_of(const Candidate& candidate) {
    const unsigned bits = std::bit_cast<unsigned>(candidate.bound);
    return candidate.id < 0 ? 0 : bits >> 31 ? ~bits : bits | 0x80000000u;
}

// Candidates that a thread loads before it uses the first of them, and those that a block loads at once: a round.
inline constexpr unsigned kLoaded = 8;
inline constexpr unsigned kRound = kLoaded * kSelectThreads;

// Calls work(i, candidate) for each candidate of a round. Beyond the end of the list the candidates have id -1.
template <typename Work>
__device__ void for_each_in_round(const Candidate* list, std::size_t start, std::size_t count, const Work& work) {
    Candidate loaded[kLoaded];
#pragma unroll
    for (unsigned i = 0; i < kLoaded; ++i) {
        const std::size_t at = start + i * kSelectThreads + threadIdx.x;
        loaded[i] = at < count ? list[at] : Candidate{0, -1};
    }
#pragma unroll
    for (unsigned i = 0; i < kLoaded; ++i) work(i, loaded[i]);
}

// A key that at least `wanted` candidates reach, and not many more. If there are at most `max` candidates, 1, which all
// of them reach.
//
// The list is divided into groups, several per thread. The result is the `wanted`-th largest of the groups' best keys:
// so many candidates reach it, and more only where one group has two of them.
__device__ inline unsigned selection_key(const Candidate* list, std::size_t count, unsigned wanted, unsigned max) {
    if (count <= max) return 1;
    constexpr unsigned kGroups = 4, kFew = kSelectThreads / 4;
    static_assert(kLoaded % kGroups == 0 && kMaxK <= kGroups * kSelectThreads / 2);
    unsigned best[kGroups] = {};
    for (std::size_t start = 0; start < count; start += kRound) {
        for_each_in_round(list, start, count, [&](unsigned i, const Candidate& candidate) {
            const unsigned key = key_of(candidate);
            unsigned& mine = best[i % kGroups];
            mine = key > mine ? key : mine;
        });
    }
    if (wanted <= kFew) {
        for (unsigned i = 1; i < kGroups; ++i) best[0] = best[i] > best[0] ? best[i] : best[0];
    }
    // Bit by bit, from the highest, the largest key that so many groups reach.
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
