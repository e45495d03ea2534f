// Attention of one head over one text, in float32. Included by kernel_source.cpp alone.
#pragma once

#include "product.hpp"

namespace care {
namespace {

// Rotary position embedding: rotates the pairs of values i and i + head_size / 2.
CARE_INLINE void rotate(const float* from, const float* cosines, const float* sines, std::size_t size, float scaling,
                        float* to) {
    const std::size_t half = size / 2;
    std::size_t i = 0;
    for (; i + kFloats <= half; i += kFloats) {
        const Floats low = load<Floats>(from + i), high = load<Floats>(from + i + half);
        store(to + i, (low * load<Floats>(cosines + i) - high * load<Floats>(sines + i)) * scaling);
        store(to + i + half,
              (high * load<Floats>(cosines + i + half) + low * load<Floats>(sines + i + half)) * scaling);
    }
    for (; i < half; ++i) {
        const float low = from[i], high = from[i + half];
        to[i] = (low * cosines[i] - high * sines[i]) * scaling;
        to[i + half] = (high * cosines[i + half] + low * sines[i + half]) * scaling;
    }
}

// Writes exp(score - largest) in place, and returns 1 / their sum.
CARE_INLINE float softmax(float* scores, std::size_t tokens) {
    const std::size_t all = rounded_to(tokens, kFloats);
    for (std::size_t j = tokens; j < all; ++j) scores[j] = -__builtin_inff();
    Floats largest = load<Floats>(scores);
    for (std::size_t j = kFloats; j < all; j += kFloats) largest = larger(load<Floats>(scores + j), largest);
    const float largest_score = largest_of(largest);
    Floats sum{};
    for (std::size_t j = 0; j < all; j += kFloats) {
        const Floats weight = exponential(load<Floats>(scores + j) - largest_score);
        store(scores + j, weight);
        sum += weight;
    }
    return 1.0f / sum_of(sum);
}

// Multiplies rows by all blocks of weights: take(block, row, sums) receives the sums of one block.
template <typename Take>
CARE_INLINE void multiply_blocks(TileWeights weights, std::size_t blocks, const Rows& rows, const Take& take) {
    Prefetcher none({nullptr, 0}, 0, 0);
    std::size_t block = 0;
    for (; block + kTileBlocks <= blocks; block += kTileBlocks, weights.from += kTileBlocks * weights.block_stride) {
        multiply_rows<Float32Words, kTileBlocks>(
            weights, rows, none, [&](std::size_t row, const auto& sums) __attribute__((always_inline)) {
#pragma GCC unroll 8
                for (std::size_t b = 0; b < kTileBlocks; ++b) take(block + b, row, sums[b]);
            });
    }
    for (; block < blocks; ++block, weights.from += weights.block_stride) {
        multiply_rows<Float32Words, 1>(
            weights, rows, none,
            [&](std::size_t row, const auto& sums) __attribute__((always_inline)) { take(block, row, sums[0]); });
    }
}

// Prefetches rows that other threads have written. They are kilobytes apart, which defeats hardware prefetchers.
CARE_INLINE void prefetch_rows(const float* from, std::size_t stride, std::size_t count, std::size_t size) {
    constexpr std::size_t kMaxPrefetchRows = 64, kStep = kLineBytes / sizeof(float);
    for (std::size_t row = 0; row < count && row < kMaxPrefetchRows; ++row) {
        for (std::size_t i = 0; i < size; i += kStep) __builtin_prefetch(from + row * stride + i, 0, 2);
    }
}

void attend(const Attention& a) {
    const std::size_t size = a.head_size, wide = rounded_to(size, kBlock), all = rounded_to(a.tokens, kBlock);
    const std::size_t query_stride = wide + 16, score_stride = all + 16;
    float* const keys = a.scratch;
    float* const queries = keys + all * wide;
    float* const scores = queries + kAttentionRows * query_stride;
    float* const rotated = scores + kAttentionRows * score_stride;

    prefetch_rows(a.keys, a.stride, a.tokens, size);
    prefetch_rows(a.queries, a.query_stride, a.query_count, size);
    prefetch_rows(a.values, a.stride, a.tokens, size);

    // Packs the keys like weights, in blocks of sixteen tokens. The scores of padding tokens are never used.
    for (std::size_t t = 0; t < all; ++t) {
        float* const to = keys + t / kBlock * kBlock * size + t % kBlock;
        if (t < a.tokens) {
            rotate(a.keys + t * a.stride, a.cosines + t * size, a.sines + t * size, size, 1, rotated);
            for (std::size_t i = 0; i < size; ++i) to[i * kBlock] = rotated[i];
        } else {
            for (std::size_t i = 0; i < size; ++i) to[i * kBlock] = 0;
        }
    }
    const TileWeights key_weights{reinterpret_cast<const std::byte*>(keys), size * kGroupBytes, kGroupBytes, size};
    const TileWeights value_weights{reinterpret_cast<const std::byte*>(a.values), kGroupBytes,
                                    a.stride * sizeof(float), a.tokens};

    for (std::size_t first = 0; first < a.query_count; first += kAttentionRows) {
        const std::size_t count = a.query_count - first < kAttentionRows ? a.query_count - first : kAttentionRows;
        for (std::size_t r = 0; r < count; ++r) {
            const std::size_t position = (a.first_position + first + r) * size;
            rotate(a.queries + (first + r) * a.query_stride, a.cosines + position, a.sines + position, size, a.scaling,
                   queries + r * query_stride);
        }
        const Rows query_rows{reinterpret_cast<const std::byte*>(queries), query_stride * sizeof(float), nullptr,
                              nullptr, count};
        multiply_blocks(key_weights, all / kBlock, query_rows,
                        [&](std::size_t block, std::size_t row, const auto& sums) __attribute__((always_inline)) {
                            float* const to = scores + row * score_stride + block * kBlock;
#pragma GCC unroll 8
                            for (std::size_t p = 0; p < kBlockRegisters; ++p) store(to + p * kFloats, sums[p]);
                        });
        float inverses[kAttentionRows];
        for (std::size_t r = 0; r < count; ++r) inverses[r] = softmax(scores + r * score_stride, a.tokens);
        const Rows weight_rows{reinterpret_cast<const std::byte*>(scores), score_stride * sizeof(float), nullptr,
                               nullptr, count};
        multiply_blocks(value_weights, wide / kBlock, weight_rows,
                        [&](std::size_t block, std::size_t row, const auto& sums) __attribute__((always_inline)) {
                            float* const to = a.to + (first + row) * a.to_stride + block * kBlock;
#pragma GCC unroll 8
                            for (std::size_t p = 0; p < kBlockRegisters; ++p) {
                                const std::size_t at = block * kBlock + p * kFloats;
                                store_first(to + p * kFloats, size - (at < size ? at : size), sums[p] * inverses[row]);
                            }
                        });
    }
}

}  // namespace
}  // namespace care
