// How a search is divided on a GPU: decided on the host before anything is known of the queries.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "care/codes.hpp"

namespace care::cuda {

// One multiplication of the tensor cores: 16 vectors, 8 columns of queries, 32 values.
inline constexpr std::size_t kStepGroups = 8;
inline constexpr std::size_t kTileColumns = 8;
// What a warp takes at once.
inline constexpr std::size_t kPairBlocks = 2;
inline constexpr std::size_t kPair = kPairBlocks * kBlock;
// Up to so many queries the second term costs little, because reading codes is the limit.
inline constexpr std::size_t kTwoTermQueries = 16;
// Queries that are searched together. More follow one another.
inline constexpr std::size_t kPassQueries = 256;
// Bounds what threads of a block share.
inline constexpr std::size_t kMostWidth = 8192;
inline constexpr std::size_t kMostK = 1024;

// Of what a block can share, at most so much is taken by what kernels declare themselves.
inline constexpr std::size_t kOwnSharedBytes = 22 * 1024;

// With fewer vectors than this, or not many more than are asked for, all are scored at once.
inline constexpr std::size_t kFewVectors = 8192;
inline constexpr std::size_t kFewPerHit = 32;

struct Plan {
    // By codes, or every vector exactly.
    bool by_codes;
    bool both_terms;
    std::size_t tiles;    // of columns that a warp multiplies at once: 1, 2, 4 or 8
    std::size_t columns;  // groups of that many tiles
    std::size_t steps;    // multiplications along the width, zeros included

    // The sample from which the first thresholds come: every `stride`-th pair of blocks.
    std::size_t pairs, stride, sample_pairs;
    // Candidates that a query has room for; with more of them codes did not pay.
    std::size_t capacity;

    constexpr std::size_t columns_of_group() const { return tiles * kTileColumns; }
    constexpr std::size_t queries_of_group() const { return columns_of_group() / (both_terms ? 2 : 1); }
    // Bytes of the coded queries of one group.
    constexpr std::size_t group_bytes() const { return steps * kStepGroups * kGroup * columns_of_group(); }
};

// Steps whose codes are loaded together: more of them where there is less arithmetic. And whether those of the next are
// loaded before the last are multiplied.
inline constexpr std::size_t steps_at_once(std::size_t tiles) { return tiles <= 2 ? 8 : tiles == 4 ? 4 : 2; }
inline constexpr bool loads_ahead(std::size_t tiles) { return tiles > 4; }

// `shared_bytes`: what a block of the GPU can share.
//
// A sample of S of the m vectors that may be found gives a threshold that some m k / S of them reach, so that with S =
// 4 sqrt(m k) both are small. Codes did not pay when eight times as many do.
inline Plan make_plan(std::size_t rows, std::size_t searched, std::size_t findable, std::size_t k, std::size_t queries,
                      std::size_t shared_bytes) {
    Plan plan{};
    plan.pairs = (blocks(rows) + kPairBlocks - 1) / kPairBlocks;
    plan.by_codes = findable >= kFewVectors && findable / kFewPerHit >= k;
    plan.both_terms = queries <= kTwoTermQueries;
    const std::size_t columns = queries * (plan.both_terms ? 2 : 1);
    const std::size_t steps = (groups(searched) + kStepGroups - 1) / kStepGroups;
    for (plan.tiles = plan.both_terms ? 4 : 8;; plan.tiles /= 2) {
        const std::size_t at_once = steps_at_once(plan.tiles);
        plan.steps = (steps + at_once - 1) / at_once * at_once;
        const bool fits = plan.group_bytes() + kOwnSharedBytes + 8 * 1024 <= shared_bytes;
        const bool needed = plan.tiles / 2 * kTileColumns < columns;
        if (plan.tiles == 1 || (fits && needed)) break;
    }
    plan.columns = (columns + plan.columns_of_group() - 1) / plan.columns_of_group();

    const double found = static_cast<double>(std::max<std::size_t>(findable, 1));
    const double wanted = 4 * std::sqrt(found * static_cast<double>(k));
    const double share = std::min(1.0, wanted / found);
    plan.stride = std::max<std::size_t>(1, static_cast<std::size_t>(1 / share));
    plan.sample_pairs = (plan.pairs + plan.stride - 1) / plan.stride;
    const double expected = static_cast<double>(k) / share;
    plan.capacity = std::max(plan.sample_pairs * kPair, static_cast<std::size_t>(8 * expected) + 4096);
    return plan;
}

}  // namespace care::cuda
