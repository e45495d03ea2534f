// The filter by float32 products with the stored vectors, and exact scores. Included by kernel_source.cpp alone.
#pragma once

#include "kernel.hpp"
#include "registers.hpp"

namespace care {
namespace {

// Register tile for a few queries: vectors by queries. Four sums are reduced at once.
#if defined(__AVX512F__)
constexpr std::size_t kFloatRows = 4, kFloatQueries = 6;
#elif defined(__AVX__)
constexpr std::size_t kFloatRows = 4, kFloatQueries = 2;
#else
constexpr std::size_t kFloatRows = 4, kFloatQueries = 2;
#endif

// Writes scores[q * kBlock + r] of vectors r and queries q, each summed in kFloats accumulators.
template <std::size_t Rows, std::size_t Count>
CARE_INLINE void float_products(const float* vectors, std::size_t width, const float* queries, std::size_t query_width,
                                float* scores) {
    Floats sums[Count][Rows] = {};
    const auto add = [&](const float* vector, std::size_t vector_stride, const float* query,
                         std::size_t query_stride) __attribute__((always_inline)) {
        Floats row[Rows];
#pragma GCC unroll 8
        for (std::size_t r = 0; r < Rows; ++r) row[r] = load<Floats>(vector + r * vector_stride);
#pragma GCC unroll 8
        for (std::size_t q = 0; q < Count; ++q) {
            const Floats value = load<Floats>(query + q * query_stride);
#pragma GCC unroll 8
            for (std::size_t r = 0; r < Rows; ++r) sums[q][r] += row[r] * value;
        }
    };
    const std::size_t whole = query_width / kFloats * kFloats;
    for (std::size_t j = 0; j < whole; j += kFloats) add(vectors + j, width, queries + j, query_width);
    if (whole < query_width) {
        float row[Rows][kFloats] = {}, value[Count][kFloats] = {};
        for (std::size_t r = 0; r < Rows; ++r) {
            for (std::size_t j = whole; j < query_width; ++j) row[r][j - whole] = vectors[r * width + j];
        }
        for (std::size_t q = 0; q < Count; ++q) {
            for (std::size_t j = whole; j < query_width; ++j) value[q][j - whole] = queries[q * query_width + j];
        }
        add(row[0], kFloats, value[0], kFloats);
    }
#pragma GCC unroll 8
    for (std::size_t q = 0; q < Count; ++q) {
        const Floats(&sum)[Rows] = sums[q];
        const FourFloats found = Rows == 4 ? horizontal_sums(sum[0], sum[1 % Rows], sum[2 % Rows], sum[3 % Rows])
                                           : horizontal_sums(sum[0], Floats{}, Floats{}, Floats{});
        std::memcpy(scores + q * kBlock, &found, Rows * sizeof(float));
    }
}

template <std::size_t Count>
CARE_INLINE void float_products_of_block(const Tile& tile, std::size_t block, const Queries& queries,
                                         std::size_t query, float* scores) {
    const std::size_t left = tile.rows - block * kBlock, count = left < kBlock ? left : kBlock;
    const float* vectors = tile.vectors + block * kBlock * tile.width;
    const float* first = queries.floats + query * queries.query_width;
    std::size_t r = 0;
    for (; r + kFloatRows <= count; r += kFloatRows) {
        float_products<kFloatRows, Count>(vectors + r * tile.width, tile.width, first, queries.query_width, scores + r);
    }
    for (; r < count; ++r) {
        float_products<1, Count>(vectors + r * tile.width, tile.width, first, queries.query_width, scores + r);
    }
}

// Compares the bounds of a block for a query with its threshold, and writes them if any reaches it.
CARE_INLINE void filter_scores(const float* scores, const Tile& tile, std::size_t block, const Queries& queries,
                               std::size_t query, const float* thresholds, std::uint16_t* masks, float* bounds) {
    const float rounding = queries.float_rounding[query];
    std::uint32_t mask = 0;
    Floats found[kBlockRegisters];
    for (std::size_t p = 0; p < kBlockRegisters; ++p) {
        const std::size_t at = block * kBlock + p * kFloats;
        found[p] = load<Floats>(scores + p * kFloats) +
                   rounding * (load<Floats>(tile.code_norms + at) + load<Floats>(tile.errors + at));
        mask |= at_least(found[p], thresholds[query]) << (p * kFloats);
    }
    const std::size_t place = block * queries.count + query;
    masks[place] = static_cast<std::uint16_t>(mask);
    if (mask) std::memcpy(bounds + place * kBlock, found, sizeof found);
}

template <std::size_t Count>
CARE_INLINE void float_filter_queries(const Tile& tile, std::size_t block, const Queries& queries, std::size_t query,
                                      const float* thresholds, std::uint16_t* masks, float* bounds) {
    float scores[Count][kBlock] = {};
    float_products_of_block<Count>(tile, block, queries, query, scores[0]);
    for (std::size_t c = 0; c < Count; ++c) {
        filter_scores(scores[c], tile, block, queries, query + c, thresholds, masks, bounds);
    }
}

// Register tile for many queries: queries by blocks of transposed vectors.
#if defined(__AVX512F__)
constexpr std::size_t kManyQueries = 12, kManyBlocks = 2;
#elif defined(__AVX__)
constexpr std::size_t kManyQueries = 6, kManyBlocks = 1;
#else
constexpr std::size_t kManyQueries = 3, kManyBlocks = 1;
#endif
static_assert(kManyBlocks <= kScratchBlocks);

// Transposes a block to packed[value][vector]; zeros where there is no vector.
CARE_INLINE void pack_block(const Tile& tile, std::size_t block, std::size_t query_width, float* packed) {
    const std::size_t left = tile.rows - block * kBlock, count = left < kBlock ? left : kBlock;
    const float* vectors = tile.vectors + block * kBlock * tile.width;
    const std::size_t whole = count == kBlock ? query_width / kFloats * kFloats : 0;
    for (std::size_t j = 0; j < whole; j += kFloats) {
        for (std::size_t p = 0; p < kBlockRegisters; ++p) {
            Floats square[kFloats];
#pragma GCC unroll 16
            for (std::size_t i = 0; i < kFloats; ++i) {
                square[i] = load<Floats>(vectors + (p * kFloats + i) * tile.width + j);
            }
            transpose(square);
#pragma GCC unroll 16
            for (std::size_t i = 0; i < kFloats; ++i) {
                std::memcpy(packed + (j + i) * kBlock + p * kFloats, &square[i], sizeof square[i]);
            }
        }
    }
    for (std::size_t j = whole; j < query_width; ++j) {
        for (std::size_t r = 0; r < kBlock; ++r) packed[j * kBlock + r] = r < count ? vectors[r * tile.width + j] : 0;
    }
}

// The filter for packed blocks. Each sum is computed in four pieces, so that it rounds no more often than in four
// lanes.
template <std::size_t Blocks, std::size_t Count>
CARE_INLINE void filter_packed(const Tile& tile, std::size_t block, const Queries& queries, std::size_t query,
                               const float* thresholds, std::uint16_t* masks, float* bounds) {
    const std::size_t query_width = queries.query_width, piece = (query_width + 3) / 4;
    const float* floats = queries.floats + query * query_width;
    Floats sum_of_pieces[Count][Blocks][kBlockRegisters] = {};
    for (std::size_t start = 0; start < query_width; start += piece) {
        Floats sums[Count][Blocks][kBlockRegisters] = {};
        const std::size_t end = start + piece < query_width ? start + piece : query_width;
        for (std::size_t j = start; j < end; ++j) {
            Floats values[Blocks][kBlockRegisters];
#pragma GCC unroll 8
            for (std::size_t b = 0; b < Blocks; ++b) {
#pragma GCC unroll 8
                for (std::size_t p = 0; p < kBlockRegisters; ++p) {
                    values[b][p] = load<Floats>(tile.scratch + (b * query_width + j) * kBlock + p * kFloats);
                }
            }
#pragma GCC unroll 16
            for (std::size_t c = 0; c < Count; ++c) {
                const float value = floats[c * query_width + j];
#pragma GCC unroll 8
                for (std::size_t b = 0; b < Blocks; ++b) {
#pragma GCC unroll 8
                    for (std::size_t p = 0; p < kBlockRegisters; ++p) sums[c][b][p] += value * values[b][p];
                }
            }
        }
#pragma GCC unroll 16
        for (std::size_t c = 0; c < Count; ++c) {
#pragma GCC unroll 8
            for (std::size_t b = 0; b < Blocks; ++b) {
#pragma GCC unroll 8
                for (std::size_t p = 0; p < kBlockRegisters; ++p) sum_of_pieces[c][b][p] += sums[c][b][p];
            }
        }
    }
    for (std::size_t c = 0; c < Count; ++c) {
        for (std::size_t b = 0; b < Blocks; ++b) {
            float scores[kBlock];
            std::memcpy(scores, sum_of_pieces[c][b], sizeof scores);
            filter_scores(scores, tile, block + b, queries, query + c, thresholds, masks, bounds);
        }
    }
}

template <std::size_t Blocks>
CARE_INLINE void filter_many(const Tile& tile, std::size_t block, const Queries& queries, const float* thresholds,
                             std::uint16_t* masks, float* bounds) {
    for (std::size_t b = 0; b < Blocks; ++b) {
        pack_block(tile, block + b, queries.query_width, tile.scratch + b * queries.query_width * kBlock);
    }
    std::size_t query = 0;
    for (; query + kManyQueries <= queries.count; query += kManyQueries) {
        filter_packed<Blocks, kManyQueries>(tile, block, queries, query, thresholds, masks, bounds);
    }
    for (; query + kManyQueries / 3 <= queries.count; query += kManyQueries / 3) {
        filter_packed<Blocks, kManyQueries / 3>(tile, block, queries, query, thresholds, masks, bounds);
    }
    for (; query < queries.count; ++query) {
        filter_packed<Blocks, 1>(tile, block, queries, query, thresholds, masks, bounds);
    }
}

void filter_floats(const Tile& tile, const Queries& queries, const float* thresholds, std::uint16_t* masks,
                   float* bounds) {
    if (queries.count >= kManyQueries) {
        // Transposing the vectors costs less than a horizontal sum for every pair.
        std::size_t block = 0;
        for (; block + kManyBlocks <= tile.blocks; block += kManyBlocks) {
            filter_many<kManyBlocks>(tile, block, queries, thresholds, masks, bounds);
        }
        for (; block < tile.blocks; ++block) filter_many<1>(tile, block, queries, thresholds, masks, bounds);
        return;
    }
    // The queries stay in the first-level cache while the tile streams from the second.
    std::size_t query = 0;
    for (; query + kFloatQueries <= queries.count; query += kFloatQueries) {
        for (std::size_t block = 0; block < tile.blocks; ++block) {
            float_filter_queries<kFloatQueries>(tile, block, queries, query, thresholds, masks, bounds);
        }
    }
    for (; query < queries.count; ++query) {
        for (std::size_t block = 0; block < tile.blocks; ++block) {
            float_filter_queries<1>(tile, block, queries, query, thresholds, masks, bounds);
        }
    }
}

void exact_scores(const float* const (&vectors)[kScoredTogether], const double* query, std::size_t width,
                  double (&scores)[kScoredTogether]) {
    constexpr std::size_t kCount = kScoredTogether;
    constexpr std::size_t kRegisters = kLanes / kDoubles;
    Doubles sums[kCount][kRegisters] = {};
    const auto add = [&](const float* const (&values)[kCount], std::size_t from,
                         const double* others) __attribute__((always_inline)) {
#pragma GCC unroll 8
        for (std::size_t i = 0; i < kRegisters; ++i) {
            const Doubles other = load<Doubles>(others + i * kDoubles);
#pragma GCC unroll 8
            for (std::size_t c = 0; c < kCount; ++c) {
                add_exact_products(sums[c][i], values[c] + from + i * kDoubles, other);
            }
        }
    };
    const std::size_t whole = width / kLanes * kLanes;
    for (std::size_t j = 0; j < whole; j += kLanes) add(vectors, j, query + j);
    if (whole < width) {
        float padded[kCount][kLanes] = {};
        const float* rest[kCount];
        for (std::size_t c = 0; c < kCount; ++c) {
            for (std::size_t j = whole; j < width; ++j) padded[c][j - whole] = vectors[c][j];
            rest[c] = padded[c];
        }
        add(rest, 0, query + whole);
    }
    for (std::size_t c = 0; c < kCount; ++c) {
        double lanes[kLanes];
        for (std::size_t i = 0; i < kLanes; ++i) lanes[i] = sums[c][i / kDoubles][i % kDoubles];
        scores[c] = sum_lanes(lanes);
    }
}

}  // namespace
}  // namespace care
