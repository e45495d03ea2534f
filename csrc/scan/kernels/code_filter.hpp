// The filter by int8 codes. Included by kernel_source.cpp alone.
#pragma once

#include <limits>

#include "kernel.hpp"
#include "registers.hpp"

namespace care {
namespace {

// Register tile: blocks by rows of the queries, where a row is one term of one query.
#if defined(__AVX512F__)
constexpr std::size_t kTileBlocks = 3, kTileRows = 8;
#elif defined(__AVXVNNI__)
constexpr std::size_t kTileBlocks = 1, kTileRows = 6;
#elif defined(__AVX2__)
constexpr std::size_t kTileBlocks = 1, kTileRows = 4;
#else
constexpr std::size_t kTileBlocks = 1, kTileRows = 2;
#endif
static_assert(kRegisterTileBlocks % kTileBlocks == 0);

template <std::size_t Blocks, std::size_t Rows>
struct Sums {
    Ints of[Rows][Blocks][kBlockRegisters];
};

// A product waits some five cycles for the one before it in the same sum, and this many can be on their way.
constexpr std::size_t kProductsOnTheWay = 8;

// Adds the products of one group of values, and prefetches as many cache lines of what is scanned later.
template <std::size_t AheadLines, std::size_t Blocks, std::size_t Rows>
CARE_INLINE void add_group(const std::uint8_t* bytes, std::size_t stride, std::size_t group,
                           const std::int8_t* const (&rows)[Rows], const std::uint8_t* ahead,
                           Sums<Blocks, Rows>& sums) {
#pragma GCC unroll 8
    for (std::size_t line = 0; line < AheadLines; ++line) {
        __builtin_prefetch(ahead + (group * AheadLines + line) * kCacheLineBytes);
    }
    Bytes codes[Blocks][kBlockRegisters];
#pragma GCC unroll 8
    for (std::size_t b = 0; b < Blocks; ++b) {
#pragma GCC unroll 8
        for (std::size_t p = 0; p < kBlockRegisters; ++p) {
            codes[b][p] = load<Bytes>(bytes + b * stride + group * kGroupBytes + p * kRegisterBytes);
        }
    }
#pragma GCC unroll 8
    for (std::size_t r = 0; r < Rows; ++r) {
        const std::int32_t query = load<std::int32_t>(rows[r] + group * kGroup);
#pragma GCC unroll 8
        for (std::size_t b = 0; b < Blocks; ++b) {
#pragma GCC unroll 8
            for (std::size_t p = 0; p < kBlockRegisters; ++p) add_products(sums.of[r][b][p], codes[b][p], query);
        }
    }
}

// Dot products of stored codes and query codes, less the corrections for the stored offset. `ahead` is what is prefetched
// meanwhile: AheadLines cache lines for each group.
template <std::size_t AheadLines, std::size_t Blocks, std::size_t Rows>
CARE_INLINE void accumulate(const std::uint8_t* bytes, std::size_t stride, std::size_t group_count,
                            const std::int8_t* const (&rows)[Rows], const std::int32_t (&corrections)[Rows],
                            const std::uint8_t* ahead, Sums<Blocks, Rows>& sums) {
    // Few sums are split into several, of every second, fourth or eighth group.
    constexpr std::size_t kSplit = kProductsOnTheWay / (Blocks * Rows * kBlockRegisters);
    constexpr std::size_t kParts = kSplit >= 8 ? 8 : kSplit >= 4 ? 4 : kSplit >= 2 ? 2 : 1;
    Sums<Blocks, Rows> parts[kParts] = {};
#pragma GCC unroll 8
    for (std::size_t r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
        for (std::size_t b = 0; b < Blocks; ++b) {
#pragma GCC unroll 8
            for (std::size_t p = 0; p < kBlockRegisters; ++p) parts[0].of[r][b][p] = Ints{} - corrections[r];
        }
    }
    std::size_t g = 0;
    for (; g + kParts <= group_count; g += kParts) {
#pragma GCC unroll 8
        for (std::size_t part = 0; part < kParts; ++part) {
            add_group<AheadLines>(bytes, stride, g + part, rows, ahead, parts[part]);
        }
    }
    for (; g < group_count; ++g) add_group<AheadLines>(bytes, stride, g, rows, ahead, parts[0]);
#pragma GCC unroll 8
    for (std::size_t r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
        for (std::size_t b = 0; b < Blocks; ++b) {
#pragma GCC unroll 8
            for (std::size_t p = 0; p < kBlockRegisters; ++p) {
                Ints sum = parts[0].of[r][b][p];
#pragma GCC unroll 8
                for (std::size_t part = 1; part < kParts; ++part) sum += parts[part].of[r][b][p];
                sums.of[r][b][p] = sum;
            }
        }
    }
}

// The upper bound of query_code.hpp, for one register of vectors.
template <std::size_t Terms>
CARE_INLINE Floats upper_bound(const Ints (&sums)[Terms], const QueryBound& bound, const float* scales,
                               const float* code_norms, const float* errors) {
    Floats product = bound.term_scale[0] * __builtin_convertvector(sums[0], Floats);
    if constexpr (Terms == 2) product += bound.term_scale[1] * __builtin_convertvector(sums[1], Floats);
    return load<Floats>(scales) * product + bound.query_norm * load<Floats>(errors) +
           bound.remainder_norm[Terms - 1] * load<Floats>(code_norms);
}

template <std::size_t Terms, std::size_t Count, std::size_t Rows>
CARE_INLINE void load_rows(const Queries& queries, std::size_t query, const std::int8_t* (&rows)[Rows],
                           std::int32_t (&corrections)[Rows]) {
    static_assert(Rows == Terms * Count);
#pragma GCC unroll 8
    for (std::size_t r = 0; r < Rows; ++r) {
        const std::size_t q = query + r / Terms;
        rows[r] = (r % Terms == 0 ? queries.first : queries.second) + q * query_row_bytes(queries.query_width);
        corrections[r] = queries.bounds[q].correction[r % Terms];
    }
}

// Lowers the bounds of vectors that passed by one term to those by both terms, and clears the bits of those that are below the
// threshold now. The codes of the blocks were just read.
[[gnu::noinline]] void refine(const Tile& tile, std::size_t first_block, std::size_t blocks, const Queries& queries,
                              std::size_t first_query, std::size_t count, const float* thresholds, std::uint16_t* masks,
                              float* bounds) {
    Refinement& refinement = *queries.refinement;
    for (std::size_t q = first_query; q < first_query + count; ++q) {
        const QueryBound& bound = queries.bounds[q];
        const std::int8_t* const row[] = {queries.second + q * query_row_bytes(queries.query_width)};
        const float remainder = bound.remainder_norm[1] - bound.remainder_norm[0];
        for (std::size_t block = first_block; block < first_block + blocks; ++block) {
            const std::size_t place = block * queries.count + q;
            if (masks[place] == 0 || thresholds[q] == -std::numeric_limits<float>::infinity()) continue;
            Sums<1, 1> sums;
            accumulate<0>(tile.bytes + block * tile.stride, tile.stride, groups(queries.query_width), row,
                          {bound.correction[1]}, tile.bytes, sums);
            std::uint32_t mask = 0;
            for (std::size_t p = 0; p < kBlockRegisters; ++p) {
                const std::size_t at = block * kBlock + p * kFloats;
                float* const found = bounds + place * kBlock + p * kFloats;
                const Floats product = bound.term_scale[1] * __builtin_convertvector(sums.of[0][0][p], Floats);
                const Floats refined = load<Floats>(found) + load<Floats>(tile.scales + at) * product +
                                       remainder * load<Floats>(tile.code_norms + at);
                mask |= at_least(refined, thresholds[q]) << (p * kFloats);
                std::memcpy(found, &refined, sizeof refined);
            }
            ++refinement.blocks;
            refinement.vectors += static_cast<std::size_t>(__builtin_popcount(masks[place]));
            masks[place] &= static_cast<std::uint16_t>(mask);
            refinement.left += static_cast<std::size_t>(__builtin_popcount(masks[place]));
        }
    }
}

template <std::size_t Terms, std::size_t Blocks, std::size_t Count, std::size_t AheadLines>
CARE_INLINE void filter_blocks(const Tile& tile, std::size_t block, const Queries& queries, std::size_t query,
                               const std::uint8_t* ahead, const float* thresholds, std::uint16_t* masks,
                               float* bounds) {
    const std::int8_t* rows[Terms * Count];
    std::int32_t corrections[Terms * Count];
    load_rows<Terms, Count>(queries, query, rows, corrections);
    Sums<Blocks, Terms * Count> sums;
    std::uint32_t any = 0;
    accumulate<AheadLines>(tile.bytes + block * tile.stride, tile.stride, groups(queries.query_width), rows,
                           corrections, ahead, sums);
#pragma GCC unroll 8
    for (std::size_t c = 0; c < Count; ++c) {
        const std::size_t q = query + c;
#pragma GCC unroll 8
        for (std::size_t b = 0; b < Blocks; ++b) {
            std::uint32_t mask = 0;
            Floats found[kBlockRegisters];
#pragma GCC unroll 8
            for (std::size_t p = 0; p < kBlockRegisters; ++p) {
                const std::size_t at = (block + b) * kBlock + p * kFloats;
                Ints terms[Terms];
#pragma GCC unroll 2
                for (std::size_t t = 0; t < Terms; ++t) terms[t] = sums.of[c * Terms + t][b][p];
                found[p] = upper_bound<Terms>(terms, queries.bounds[q], tile.scales + at, tile.code_norms + at,
                                              tile.errors + at);
                mask |= at_least(found[p], thresholds[q]) << (p * kFloats);
            }
            const std::size_t place = (block + b) * queries.count + q;
            masks[place] = static_cast<std::uint16_t>(mask);
            any |= mask;
            if (mask) std::memcpy(bounds + place * kBlock, found, sizeof found);
        }
    }
    if (Terms == 1 && any && queries.refinement) {
        refine(tile, block, Blocks, queries, query, Count, thresholds, masks, bounds);
    }
}

// Filters all blocks for some queries. A wide register tile prefetches `ahead`, where the codes of the next tile are, with
// AheadLines cache lines for each group of values of its blocks; a narrow one the codes that it is about to read.
template <std::size_t Terms, std::size_t Count, std::size_t AheadLines>
CARE_INLINE void filter_queries(const Tile& tile, const Queries& queries, std::size_t query, const std::uint8_t* ahead,
                                const float* thresholds, std::uint16_t* masks, float* bounds) {
    // With two terms memory bandwidth is the limit, and one stream is faster than several.
    constexpr std::size_t kBlocks = Terms == 2 ? 1 : kTileBlocks;
    const std::size_t lines = groups(queries.query_width) * AheadLines;
    std::size_t block = 0;
    if constexpr (kBlocks > 1) {
        for (; block + kBlocks <= tile.blocks; block += kBlocks) {
            filter_blocks<Terms, kBlocks, Count, AheadLines>(tile, block, queries, query, ahead, thresholds, masks,
                                                             bounds);
            ahead += lines * kCacheLineBytes;
        }
    }
    for (; block < tile.blocks; ++block) {
        const std::uint8_t* later = tile.bytes + block * tile.stride + kPrefetchBytes;
        filter_blocks<Terms, 1, Count, 1>(tile, block, queries, query, later, thresholds, masks, bounds);
    }
}

// The last queries, too few to fill the registers.
template <std::size_t Terms, std::size_t Count>
CARE_INLINE void filter_remaining(const Tile& tile, const Queries& queries, std::size_t query, const std::uint8_t* ahead,
                                  const float* thresholds, std::uint16_t* masks, float* bounds) {
    if constexpr (Count > 0) {
        if (queries.count - query != Count) {
            filter_remaining<Terms, Count - 1>(tile, queries, query, ahead, thresholds, masks, bounds);
        } else if (ahead) {
            filter_queries<Terms, Count, kTileBlocks>(tile, queries, query, ahead, thresholds, masks, bounds);
        } else {
            filter_queries<Terms, Count, 0>(tile, queries, query, tile.bytes, thresholds, masks, bounds);
        }
    }
}

template <std::size_t Terms>
void filter_codes(const Tile& tile, const Queries& queries, const float* thresholds, std::uint16_t* masks,
                  float* bounds) {
    constexpr std::size_t kCount = kTileRows / Terms;
    std::size_t query = 0;
    // The next tile is read from memory while this one is multiplied: in one go, or by the first four of many queries'
    // register tiles, so that reading does not slow down the multiplication.
    const std::uint8_t* ahead = Terms == 1 && kTileBlocks > 1 ? tile.next_bytes : nullptr;
    const std::size_t quarter = tile.blocks / kTileBlocks * groups(queries.query_width) * kCacheLineBytes;
    const bool many = queries.count >= kTileBlocks * kCount;
    for (; query + kCount <= queries.count; query += kCount) {
        if (!ahead) {
            filter_queries<Terms, kCount, 0>(tile, queries, query, tile.bytes, thresholds, masks, bounds);
        } else if (many) {
            filter_queries<Terms, kCount, 1>(tile, queries, query, ahead, thresholds, masks, bounds);
            ahead = query < (kTileBlocks - 1) * kCount ? ahead + quarter : nullptr;
        } else {
            filter_queries<Terms, kCount, kTileBlocks>(tile, queries, query, ahead, thresholds, masks, bounds);
            ahead = nullptr;
        }
    }
    filter_remaining<Terms, kCount - 1>(tile, queries, query, ahead, thresholds, masks, bounds);
}

}  // namespace
}  // namespace care
