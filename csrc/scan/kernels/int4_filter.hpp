// The filter by int4 codes and residual codes, for one query, where memory bandwidth is the limit. Included by
// kernel_source.cpp alone.
#pragma once

#include "kernel.hpp"
#include "registers.hpp"

namespace care {
namespace {

// Blocks whose int4 codes are read before the residual codes of those vectors that passed: one long stream after the
// other is read faster than both by turns.
constexpr std::size_t kRefinedBlocks = 128;
// Vectors whose residual codes are multiplied at once, and share the loads of the query.
constexpr std::size_t kRefinedTogether = 4;
// Residual codes are prefetched so many vectors ahead. Of up to one vector in so many, they are read alone, and of more
// with those between them: one stream is then faster than many pieces of it.
constexpr std::size_t kPrefetchVectors = 32, kSparseShare = 3;

// Writes the bounds from int4 codes of a block, and returns a bit for each that reaches the threshold.
CARE_INLINE std::uint32_t bound_block_by_int4(const Tile& tile, std::size_t block, const Int4Query& query,
                                              float threshold, float* bounds) {
    const Int4QueryBound& bound = query.bound;
    const std::int8_t* const terms[2] = {query.terms[0], query.terms[1]};
    const std::uint8_t* bytes = tile.int4_bytes + block * int4_block_bytes(query.width);
    // Separate accumulators for even and odd groups, so that additions do not wait for one another.
    Ints even_sums[2][kBlockRegisters] = {}, odd_sums[2][kBlockRegisters] = {};
    for (std::size_t pair = 0; pair < group_pairs(query.width); ++pair) {
        Bytes even[kBlockRegisters], odd[kBlockRegisters];
#pragma GCC unroll 8
        for (std::size_t p = 0; p < kBlockRegisters; ++p) {
            const std::uint8_t* at = bytes + pair * kGroupBytes + p * kRegisterBytes;
            const Bytes both = load<Bytes>(at);
            __builtin_prefetch(at + kPrefetchBytes);
            even[p] = both & 0x0f;
            odd[p] = shift_right<4>(both) & 0x0f;
        }
#pragma GCC unroll 8
        for (std::size_t t = 0; t < 2; ++t) {
            const std::int32_t even_query = load<std::int32_t>(terms[t] + 2 * pair * kGroup);
            const std::int32_t odd_query = load<std::int32_t>(terms[t] + (2 * pair + 1) * kGroup);
#pragma GCC unroll 8
            for (std::size_t p = 0; p < kBlockRegisters; ++p) {
                add_products(even_sums[t][p], even[p], even_query);
                add_products(odd_sums[t][p], odd[p], odd_query);
            }
        }
    }
    std::uint32_t mask = 0;
#pragma GCC unroll 8
    for (std::size_t p = 0; p < kBlockRegisters; ++p) {
        const std::size_t at = block * kBlock + p * kFloats;
        Floats product = {};
#pragma GCC unroll 8
        for (std::size_t t = 0; t < 2; ++t) {
            // Sums over the stored (c + 15) / 2, doubled, less the correction for the offset.
            const Ints sum = 2 * (even_sums[t][p] + odd_sums[t][p]) - bound.correction[t];
            product += bound.term_scale[t] * __builtin_convertvector(sum, Floats);
        }
        const Floats found = load<Floats>(tile.int4_scales + at) * (product + bound.remainder) +
                             bound.query_norm * load<Floats>(tile.int4_errors + at);
        std::memcpy(bounds + at, &found, sizeof found);
        mask |= at_least(found, threshold) << (p * kFloats);
    }
    return mask;
}

// Vectors of up to kRefinedBlocks blocks that passed, and sums over their residual codes.
struct Passed {
    std::size_t count = 0;
    bool dense = false;  // whether all residual codes are read, those between them too
    std::uint16_t rows[kRefinedBlocks * kBlock + kRefinedTogether];  // from the first block on
    std::int32_t sums[2][kRefinedBlocks * kBlock];  // by row, for both terms of the query; others have any value
};

// Prefetches the residual codes of some of them, and their error norms: to the second-level cache, as the first one has
// few places for what is on its way from memory.
CARE_INLINE void prefetch_residuals(const std::uint8_t* residuals, const float* errors, const Passed& passed,
                                    std::size_t begin, std::size_t end, std::size_t row_bytes) {
    constexpr int kReading = 0, kSecondLevel = 2;
    for (std::size_t i = begin; i < end && i < passed.count; ++i) {
        const std::size_t row = passed.rows[i], from = passed.dense && i > 0 ? passed.rows[i - 1] + 1 : row;
        __builtin_prefetch(errors + row);
        for (std::size_t at = from * row_bytes; at < (row + 1) * row_bytes; at += kCacheLineBytes) {
            __builtin_prefetch(residuals + at, kReading, kSecondLevel);
        }
    }
}

// Sums over the stored residual codes, for both terms of the query.
CARE_INLINE void add_residuals(const std::uint8_t* residuals, const float* errors, const Int4Query& query,
                               Passed& passed) {
    const std::int8_t* const terms[2] = {query.terms[0], query.terms[1]};
    const std::size_t row_bytes = residual_bytes(query.width);
    // The last vector fills up the last four.
    for (std::size_t i = 0; i < kRefinedTogether; ++i) passed.rows[passed.count + i] = passed.rows[passed.count - 1];
    prefetch_residuals(residuals, errors, passed, 0, kPrefetchVectors, row_bytes);
    for (std::size_t first = 0; first < passed.count; first += kRefinedTogether) {
        const std::size_t later = first + kPrefetchVectors;
        prefetch_residuals(residuals, errors, passed, later, later + kRefinedTogether, row_bytes);
        const std::uint8_t* rows[kRefinedTogether];
#pragma GCC unroll 4
        for (std::size_t i = 0; i < kRefinedTogether; ++i) rows[i] = residuals + passed.rows[first + i] * row_bytes;
        Ints products[2][kRefinedTogether] = {};
        for (std::size_t j = 0; j < row_bytes; j += kRegisterBytes) {
            Bytes packed[kRefinedTogether];
#pragma GCC unroll 4
            for (std::size_t i = 0; i < kRefinedTogether; ++i) packed[i] = load<Bytes>(rows[i] + j);
#pragma GCC unroll 4
            for (std::size_t part = 0; part < kResidualsPerByte; ++part) {
#pragma GCC unroll 4
                for (std::size_t i = 0; i < kRefinedTogether; ++i) {
                    const Bytes codes = packed[i] & 0x03;
#pragma GCC unroll 2
                    for (std::size_t t = 0; t < 2; ++t) {
                        add_products(products[t][i], codes, load<Bytes>(terms[t] + part * row_bytes + j));
                    }
                    packed[i] = shift_right<2>(packed[i]);
                }
            }
        }
#pragma GCC unroll 2
        for (std::size_t t = 0; t < 2; ++t) {
            const FourInts found = horizontal_sums(products[t][0], products[t][1], products[t][2], products[t][3]);
#pragma GCC unroll 4
            for (std::size_t i = 0; i < kRefinedTogether; ++i) passed.sums[t][passed.rows[first + i]] = found[i];
        }
    }
}

// Lowers the bounds of the vectors of a block in `mask` by sums over their residual codes, and returns a bit for each
// that reaches the threshold still.
CARE_INLINE std::uint32_t refine_block(const Tile& tile, std::size_t block, const Int4Query& query, float threshold,
                                       std::uint32_t mask, const std::int32_t* const (&sums)[2], float* bounds) {
    constexpr float kSubtractedShare = 1 - 0x1p-18f;
    const Int4QueryBound& bound = query.bound;
    std::uint32_t left = 0;
#pragma GCC unroll 8
    for (std::size_t p = 0; p < kBlockRegisters; ++p) {
        const std::size_t at = block * kBlock + p * kFloats;
        Floats product = {};
#pragma GCC unroll 2
        for (std::size_t t = 0; t < 2; ++t) {
            // Sums over the stored (r + 3) / 2, as above.
            const std::int32_t correction = bound.correction[t] / (kMaxInt4 / kMaxResidual);
            const Ints sum = 2 * load<Ints>(sums[t] + p * kFloats) - correction;
            product += bound.term_scale[t] * __builtin_convertvector(sum, Floats);
        }
        const Floats before = load<Floats>(bounds + at);
        const Floats error = load<Floats>(tile.int4_errors + at) - load<Floats>(tile.residual_errors + at);
        const Floats refined = before - (kSubtractedShare * bound.query_norm) * error +
                               0.25f * load<Floats>(tile.int4_scales + at) * product;
        // Otherwise the residual codes do not refine this vector.
        const Floats found = error > 0 ? refined : before;
        std::memcpy(bounds + at, &found, sizeof found);
        left |= at_least(found, threshold) << (p * kFloats);
    }
    return mask & left;
}

void filter_int4(const Tile& tile, const Int4Query& query, float threshold, std::uint16_t* masks, float* bounds) {
    Passed passed = {};
    for (std::size_t begin = 0; begin < tile.blocks; begin += kRefinedBlocks) {
        const std::size_t end = begin + kRefinedBlocks < tile.blocks ? begin + kRefinedBlocks : tile.blocks;
        passed.count = 0;
        for (std::size_t block = begin; block < end; ++block) {
            if (masks[block] == 0) continue;
            masks[block] &= bound_block_by_int4(tile, block, query, threshold, bounds);
            for (std::uint32_t left = masks[block]; left; left &= left - 1) {
                const std::size_t row = (block - begin) * kBlock + static_cast<std::size_t>(__builtin_ctz(left));
                passed.rows[passed.count++] = static_cast<std::uint16_t>(row);
            }
        }
        if (passed.count == 0) continue;
        passed.dense = passed.count * kSparseShare > (end - begin) * kBlock;
        const std::size_t first_row = begin * kBlock;
        add_residuals(tile.residuals + first_row * residual_bytes(query.width),
                      tile.residual_errors + first_row, query, passed);
        for (std::size_t block = begin; block < end; ++block) {
            if (masks[block] == 0) continue;
            const std::size_t at = block * kBlock - first_row;
            masks[block] = refine_block(tile, block, query, threshold, masks[block],
                                        {passed.sums[0] + at, passed.sums[1] + at}, bounds);
        }
    }
}

}  // namespace
}  // namespace care
