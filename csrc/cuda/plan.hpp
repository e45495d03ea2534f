// The plan of a search on a GPU. Made on the host, before anything is known of the queries.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "care/codes.hpp"

namespace care::cuda {

// One tensor core operation (mma): 16 vectors by 8 columns of query terms, over 32 values.
inline constexpr std::size_t kStepGroups = 8;
inline constexpr std::size_t kTileColumns = 8;
// A warp processes a pair of blocks at a time.
inline constexpr std::size_t kPairBlocks = 2;
inline constexpr std::size_t kPair = kPairBlocks * kBlock;
// Up to so many queries use both terms: reading the codes is the limit, and the second term costs little.
inline constexpr std::size_t kTwoTermQueries = 16;
// Queries of one pass.
inline constexpr std::size_t kPassQueries = 256;
// Tiles of columns that a warp multiplies at once, at most, and groups of so many that a thread block multiplies at once.
inline constexpr std::size_t kMaxTiles = 16;
inline constexpr std::size_t kMaxGroups = 2;
static_assert(kMaxGroups * kMaxTiles * kTileColumns == kPassQueries);
// Limits the shared memory of a block.
inline constexpr std::size_t kMaxWidth = 8192;
inline constexpr std::size_t kMaxK = 1024;

// Shared memory reserved for the static variables of kernels, and for the constants of a query.
inline constexpr std::size_t kStaticSharedBytes = 22 * 1024;
inline constexpr std::size_t kConstantsBytes = 32;

// With fewer vectors than kFewVectors, or than kFewPerHit for each of k hits, all are scored without a filter.
inline constexpr std::size_t kFewVectors = 8192;
inline constexpr std::size_t kFewPerHit = 32;

struct Plan {
    bool by_codes;  // filter by codes; otherwise score every vector
    bool both_terms;
    std::size_t tiles;          // tiles of columns that a warp multiplies at once: 1, 2, 4, 8 or 16
    std::size_t column_groups;  // groups of so many tiles
    std::size_t block_groups;   // groups that a thread block multiplies at once: 1, or 2 that are all
    std::size_t steps;          // mma steps along the width, with padding

    // The first thresholds come from a sample: every `stride`-th pair of blocks.
    std::size_t pairs, stride, sample_pairs;
    // Capacity of a query's candidate list. Pruning has failed for a query with more.
    std::size_t capacity;

    constexpr std::size_t columns_of_group() const { return tiles * kTileColumns; }
    constexpr std::size_t queries_of_group() const { return columns_of_group() / (both_terms ? 2 : 1); }
    // Bytes of the query codes of one group.
    constexpr std::size_t group_bytes() const { return steps * kStepGroups * kGroup * columns_of_group(); }
};

// Whether a warp multiplies so many tiles that its sums take half of a multiprocessor's registers, with seven others.
inline constexpr bool wide(std::size_t tiles) { return tiles > 8; }
// Thread blocks of the filter that a multiprocessor runs at once.
inline constexpr std::size_t blocks_at_once(std::size_t tiles) { return wide(tiles) ? 1 : 2; }
// Steps whose codes are loaded together: the more, the less arithmetic there is per load.
inline constexpr std::size_t steps_per_load(std::size_t tiles) { return tiles <= 2 ? 8 : tiles == 8 ? 2 : 4; }
// Whether the next codes are loaded before the current ones are multiplied.
inline constexpr bool double_buffered(std::size_t tiles) { return tiles > 4; }

// `shared_bytes`: shared memory of a block. `max_columns`: columns that are multiplied for one read of the codes; 0 for as
// many as fit.
//
// A sample of S of the m allowed vectors gives a threshold that some m k / S of them reach; with S = 4 sqrt(m k) both
// numbers are small. Pruning has failed if eight times as many reach it.
inline Plan make_plan(std::size_t rows, std::size_t query_width, std::size_t allowed_count, std::size_t k,
                      std::size_t queries, std::size_t shared_bytes, std::size_t max_columns = 0) {
    Plan plan{};
    plan.pairs = (blocks(rows) + kPairBlocks - 1) / kPairBlocks;
    plan.by_codes = allowed_count >= kFewVectors && allowed_count / kFewPerHit >= k;
    plan.both_terms = queries <= kTwoTermQueries;
    const std::size_t columns = queries * (plan.both_terms ? 2 : 1);
    const std::size_t steps = (groups(query_width) + kStepGroups - 1) / kStepGroups;
    const auto fits = [&](std::size_t groups_at_once) {
        const bool allowed = max_columns == 0 || groups_at_once * plan.columns_of_group() <= max_columns;
        return allowed && groups_at_once * plan.group_bytes() + kStaticSharedBytes + kPassQueries * kConstantsBytes <= shared_bytes;
    };
    for (plan.tiles = plan.both_terms ? 4 : kMaxTiles;; plan.tiles /= 2) {
        const std::size_t per_load = steps_per_load(plan.tiles);
        plan.steps = (steps + per_load - 1) / per_load * per_load;
        const bool needed = plan.tiles / 2 * kTileColumns < columns;
        if (plan.tiles == 1 || (fits(1) && needed)) break;
    }
    plan.column_groups = (columns + plan.columns_of_group() - 1) / plan.columns_of_group();
    plan.block_groups = wide(plan.tiles) && plan.column_groups == kMaxGroups && fits(kMaxGroups) ? kMaxGroups : 1;

    const double vectors = static_cast<double>(std::max<std::size_t>(allowed_count, 1));
    const double sample = 4 * std::sqrt(vectors * static_cast<double>(k));
    const double share = std::min(1.0, sample / vectors);
    plan.stride = std::max<std::size_t>(1, static_cast<std::size_t>(1 / share));
    plan.sample_pairs = (plan.pairs + plan.stride - 1) / plan.stride;
    const double expected = static_cast<double>(k) / share;
    plan.capacity = std::max(plan.sample_pairs * kPair, static_cast<std::size_t>(8 * expected) + 4096);
    return plan;
}

}  // namespace care::cuda
