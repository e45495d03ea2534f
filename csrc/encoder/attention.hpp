// Attention of one head over one text, in float32. Included by kernel_source.cpp alone.
#pragma once

#include "product.hpp"

namespace care {
namespace {

// Rotary position embedding: rotates the pairs of values i and i + head_size / 2.
CARE_INLINE void rotate(const float* from, const float* cosines, const float* sines, std::size_t size, float* to) {
    const std::size_t half = size / 2;
    std::size_t i = 0;
    for (; i + kFloats <= half; i += kFloats) {
        const Floats low = load<Floats>(from + i), high = load<Floats>(from + i + half);
        store(to + i, low * load<Floats>(cosines + i) - high * load<Floats>(sines + i));
        store(to + i + half, high * load<Floats>(cosines + i + half) + low * load<Floats>(sines + i + half));
    }
    for (; i < half; ++i) {
        const float low = from[i], high = from[i + half];
        to[i] = low * cosines[i] - high * sines[i];
        to[i + half] = high * cosines[i + half] + low * sines[i + half];
    }
}

// to = from / sqrt(mean of its squares + epsilon) * weights.
CARE_INLINE void norm_head(const float* from, const float* weights, std::size_t size, float epsilon, float* to) {
    const std::size_t whole = size / kFloats * kFloats;
    Floats squares{};
    for (std::size_t i = 0; i < whole; i += kFloats) {
        const Floats values = load<Floats>(from + i);
        squares = multiply_add(values, values, squares);
    }
    float sum = sum_of(squares);
    for (std::size_t i = whole; i < size; ++i) sum += from[i] * from[i];
    const float inverse = 1.0f / __builtin_sqrtf(sum / static_cast<float>(size) + epsilon);
    for (std::size_t i = 0; i < whole; i += kFloats) {
        store(to + i, load<Floats>(from + i) * inverse * load<Floats>(weights + i));
    }
    for (std::size_t i = whole; i < size; ++i) to[i] = from[i] * inverse * weights[i];
}

// A query or key as it is multiplied: normalised and rotated, where the network does that. It is `from`, or in `to`.
CARE_INLINE const float* prepare(const Attention& a, const float* from, const float* norm, std::size_t position,
                                 float* to) {
    if (norm) norm_head(from, norm, a.head_size, a.epsilon, to);
    const float* const normed = norm ? to : from;
    if (!a.cosines) return normed;
    const std::size_t at = position * a.head_size;
    rotate(normed, a.cosines + at, a.sines + at, a.head_size, to);
    return to;
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

// Packs the keys like weights, in blocks of sixteen tokens; there are zeros for tokens that complete a block.
CARE_INLINE void pack_keys(const Attention& a, float* keys, float* prepared) {
    const std::size_t size = a.head_size, wide = rounded_to(size, kBlock), whole = size / kFloats * kFloats;
    for (std::size_t t = 0; t < a.tokens; t += kFloats) {
        float* const to = keys + t / kBlock * kBlock * size + t % kBlock;
        const std::size_t count = a.tokens - t < kFloats ? a.tokens - t : kFloats;
        const float* rows[kFloats];
        for (std::size_t r = 0; r < count; ++r) {
            rows[r] = prepare(a, a.keys + (t + r) * a.stride, a.key_norm, t + r, prepared + r * wide);
        }
        for (std::size_t i = 0; i < whole; i += kFloats) {
            Floats square[kFloats];
            for (std::size_t r = 0; r < kFloats; ++r) square[r] = r < count ? load<Floats>(rows[r] + i) : Floats{};
            transpose(square);
#pragma GCC unroll 16
            for (std::size_t r = 0; r < kFloats; ++r) store(to + (i + r) * kBlock, square[r]);
        }
        for (std::size_t i = whole; i < size; ++i) {
            for (std::size_t r = 0; r < kFloats; ++r) to[i * kBlock + r] = r < count ? rows[r][i] : 0;
        }
    }
    for (std::size_t t = rounded_to(a.tokens, kFloats); t % kBlock != 0; t += kFloats) {
        float* const to = keys + t / kBlock * kBlock * size + t % kBlock;
        for (std::size_t i = 0; i < size; ++i) store(to + i * kBlock, Floats{});
    }
}

void attend(const Attention& a) {
    const std::size_t size = a.head_size, wide = rounded_to(size, kBlock), most = rounded_to(a.tokens, kBlock);
    const std::size_t query_stride = wide + 16, score_stride = most + 16;
    float* const keys = a.scratch;
    float* const queries = keys + most * wide;
    float* const scores = queries + kAttentionRows * query_stride;
    float* const prepared = scores + kAttentionRows * score_stride;

    prefetch_rows(a.keys, a.stride, a.tokens, size);
    prefetch_rows(a.queries, a.query_stride, a.query_count, size);
    prefetch_rows(a.values, a.stride, a.tokens, size);
    pack_keys(a, keys, prepared);

    for (std::size_t first = 0; first < a.query_count; first += kAttentionRows) {
        const std::size_t count = a.query_count - first < kAttentionRows ? a.query_count - first : kAttentionRows;
        const std::size_t position = a.first_position + first;
        for (std::size_t r = 0; r < count; ++r) {
            float* const to = queries + r * query_stride;
            const float* const query =
                prepare(a, a.queries + (first + r) * a.query_stride, a.query_norm, position + r, to);
            for (std::size_t i = 0; i < size; ++i) to[i] = query[i] * a.scaling;
        }
        // Tokens that the last of these queries attends to. More of them would add zeros.
        const std::size_t tokens = a.causal && position + count < a.tokens ? position + count : a.tokens;
        const Rows query_rows{reinterpret_cast<const std::byte*>(queries), query_stride * sizeof(float), nullptr,
                              nullptr, count};
        const TileWeights key_weights{reinterpret_cast<const std::byte*>(keys), size * kGroupBytes, kGroupBytes, size};
        // The scores of tokens that complete a block are never used.
        multiply_blocks(key_weights, rounded_to(tokens, kBlock) / kBlock, query_rows,
                        [&](std::size_t block, std::size_t row, const auto& sums) __attribute__((always_inline)) {
                            float* const to = scores + row * score_stride + block * kBlock;
#pragma GCC unroll 8
                            for (std::size_t p = 0; p < kBlockRegisters; ++p) store(to + p * kFloats, sums[p]);
                        });
        float inverses[kAttentionRows];
        for (std::size_t r = 0; r < count; ++r) {
            const std::size_t seen = a.causal ? position + r + 1 : tokens;
            float* const row = scores + r * score_stride;
            inverses[r] = softmax(row, seen);
            for (std::size_t t = rounded_to(seen, kFloats); t < tokens; ++t) row[t] = 0;
        }
        const Rows weight_rows{reinterpret_cast<const std::byte*>(scores), score_stride * sizeof(float), nullptr,
                               nullptr, count};
        const TileWeights value_weights{reinterpret_cast<const std::byte*>(a.values), kGroupBytes,
                                        a.stride * sizeof(float), tokens};
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
