// Attention of one head over one text, in float32, or with its products of int16 codes: encoder.hpp. Included by
// kernel_source.cpp alone.
#pragma once

#include <type_traits>

#include "product.hpp"

namespace care {
namespace {

// The largest codes of attention weights and of values, so that sums over kSummedTokens tokens fit into int32; and of
// queries and keys, for small heads.
constexpr float kWeightCode = 4095, kValueCode = 2047, kHeadCode = 8191;
constexpr float kLog2E = 0x1.715476p0f;
template <bool kCoded>
constexpr std::size_t kSummedTokens = kCoded ? 256 : ~std::size_t{0} / 2;

CARE_INLINE Floats as_floats(Floats values) { return values; }
CARE_INLINE Floats as_floats(Ints values) { return __builtin_convertvector(values, Floats); }

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

// The largest score of each lane. Writes -inf as the scores of tokens that complete a register.
CARE_INLINE Floats largest_lanes(float* scores, std::size_t tokens) {
    const std::size_t all = rounded_to(tokens, kFloats);
    for (std::size_t j = tokens; j < all; ++j) scores[j] = -__builtin_inff();
    Floats largest = load<Floats>(scores);
    for (std::size_t j = kFloats; j < all; j += kFloats) largest = larger(load<Floats>(scores + j), largest);
    return largest;
}

// Attention weights in place of scores. Returns 1 / their sum.
CARE_INLINE float weigh(float* scores, std::size_t seen, std::size_t tokens) {
    const float largest = largest_of(largest_lanes(scores, seen));
    Floats sum{};
    for (std::size_t j = 0; j < seen; j += kFloats) {
        const Floats weights = exponential(load<Floats>(scores + j) - largest);
        store(scores + j, weights);
        sum += weights;
    }
    for (std::size_t t = rounded_to(seen, kFloats); t < tokens; ++t) scores[t] = 0;
    return 1.0f / sum_of(sum);
}

using Shorts [[gnu::vector_size(kRegisterBytes / 2)]] = std::int16_t;

CARE_INLINE void store_codes(std::int16_t* to, Ints codes) {
    const Shorts narrow = __builtin_convertvector(codes, Shorts);
    std::memcpy(to, &narrow, sizeof narrow);
}

// The low halves of two registers.
CARE_INLINE void store_low_halves(std::int16_t* to, Ints low, Ints high) {
    using All [[gnu::vector_size(kRegisterBytes)]] = std::int16_t;
    [&]<std::size_t... Lane>(std::index_sequence<Lane...>) __attribute__((always_inline)) {
        const All both = __builtin_shufflevector((All)low, (All)high, (2 * Lane)...);
        std::memcpy(to, &both, sizeof both);
    }(std::make_index_sequence<2 * kFloats>{});
}

CARE_INLINE Ints nearest(Floats values) { return (Ints)(values + kRoundingConstant) - kRoundingConstantBits; }

using Unsigned [[gnu::vector_size(kRegisterBytes)]] = std::uint32_t;  // wraps around

// kWeightCode * 2^x, for x <= 0, as an integer in the last bits: its low half is the code. 2^f for |f| <= 1/2 is a
// polynomial that errs by 3e-6 of it, a hundredth of a code.
CARE_INLINE Ints weight_codes(Floats x) {
    constexpr float kCoefficients[] = {0x1.3997d4p-7f, 0x1.ca1440p-5f, 0x1.ec06dap-3f, 0x1.62e0dcp-1f, 0x1.ffffe8p-1f};
    x = larger(x, broadcast(-30.0f));  // 0 for NaN too
    const Floats shifted = x + kRoundingConstant, f = x - (shifted - kRoundingConstant);
    Floats p = broadcast(kWeightCode * kCoefficients[0]);
#pragma GCC unroll 8
    for (std::size_t i = 1; i < 5; ++i) p = multiply_add(p, f, broadcast(kWeightCode * kCoefficients[i]));
    const Floats weights = (Floats)((Unsigned)p + ((Unsigned)shifted << 23));
    return (Ints)(weights + kRoundingConstant);
}

// Combines the lanes of each register: lane r of the result is of register r.
template <typename Combine>
CARE_INLINE Floats across(Floats (&registers)[kFloats], const Combine& combine) {
    transpose(registers);
    Floats all = registers[0];
#pragma GCC unroll 16
    for (std::size_t r = 1; r < kFloats; ++r) all = combine(all, registers[r]);
    return all;
}

// Codes of attention weights in place of scores, which are logarithms to base 2, of as many rows as a register has
// lanes, or fewer. Codes are shorter, so that none overwrites a score before it is read. Row r has seen(r) tokens, and
// codes of 0 for others below `tokens`. Writes 1 / the sum of the codes.
template <typename Seen>
CARE_INLINE void weigh_coded(float* scores, std::size_t stride, std::size_t count, const Seen& seen,
                             std::size_t tokens, float* inverses) {
    Floats found[kFloats];
    float largest[kFloats];
    for (std::size_t r = 0; r < kFloats; ++r) {
        found[r] = r < count ? largest_lanes(scores + r * stride, seen(r)) : Floats{};
    }
    store(largest, across(found, [](Floats a, Floats b) __attribute__((always_inline)) { return larger(b, a); }));
    for (std::size_t r = 0; r < kFloats; ++r) {
        Unsigned sum{};
        if (r < count) {
            float* const row = scores + r * stride;
            std::int16_t* const to = reinterpret_cast<std::int16_t*>(row);
            const std::size_t here = seen(r);
            std::size_t j = 0;
            for (; j + kFloats < here; j += 2 * kFloats) {
                const Ints low = weight_codes(load<Floats>(row + j) - largest[r]);
                const Ints high = weight_codes(load<Floats>(row + j + kFloats) - largest[r]);
                store_low_halves(to + j, low, high);
                sum += (Unsigned)low + (Unsigned)high - 2u * kRoundingConstantBits;
            }
            if (j < here) {
                const Ints codes = weight_codes(load<Floats>(row + j) - largest[r]) - kRoundingConstantBits;
                store_codes(to + j, codes);
                sum += (Unsigned)codes;
            }
            for (std::size_t t = rounded_to(here, kFloats); t < tokens + tokens % 2; t += kFloats) {
                store_codes(to + t, Ints{});
            }
        }
        found[r] = (Floats)sum;
    }
    const Floats sums = across(
        found, [](Floats a, Floats b) __attribute__((always_inline)) { return (Floats)((Unsigned)a + (Unsigned)b); });
    store(inverses, 1.0f / __builtin_convertvector((Ints)sums, Floats));
}

// The largest size of values, or of `found`; NaN is larger than all numbers, so that it reaches the scale.
CARE_INLINE Ints larger_sizes(const float* from, std::size_t size, Ints found) {
    for (std::size_t i = 0; i < size; i += kFloats) {
        const Floats values = load_up_to(from + i, size - i);
        const Ints sizes = (Ints)values & 0x7fffffff;
        found = sizes > found ? sizes : found;
    }
    return found;
}

// Scales of codes up to `limit`, and their inverses, of values of these sizes.
struct CodeScales {
    Floats scales, inverses;
    CARE_INLINE CodeScales(Ints sizes, float limit) {
        const Floats largest = (Floats)sizes;
        scales = largest / limit;
        inverses = largest >= 0x1p-100f ? limit / largest : Floats{};
    }
};

// Codes of as many queries or keys as a register has lanes, or fewer, in place of `to`, and their scales. There is room
// for whole registers.
CARE_INLINE void encode_rows(const float* const (&rows)[kFloats], std::size_t count, std::size_t size, float limit,
                             float* to, std::size_t stride, float* scales) {
    Floats sizes[kFloats];
    for (std::size_t r = 0; r < kFloats; ++r) {
        sizes[r] = r < count ? (Floats)larger_sizes(rows[r], size, Ints{}) : Floats{};
    }
    const auto larger_of_sizes = [](Floats a, Floats b) __attribute__((always_inline)) {
        return (Floats)((Ints)b > (Ints)a ? (Ints)b : (Ints)a);
    };
    const CodeScales found((Ints)across(sizes, larger_of_sizes), limit);
    store(scales, found.scales);
    float inverses[kFloats];
    store(inverses, found.inverses);
    for (std::size_t r = 0; r < count; ++r) {
        std::int16_t* const codes = reinterpret_cast<std::int16_t*>(to + r * stride);
        for (std::size_t i = 0; i < size; i += kFloats) {
            store_codes(codes + i, nearest(load_up_to(rows[r] + i, size - i) * inverses[r]));
        }
    }
}

// Packs codes of the values: for every two tokens, words of both for each of their values. Returns the scale.
CARE_INLINE float pack_values(const Attention& a, std::size_t wide, float* to) {
    const std::size_t size = a.head_size;
    Ints sizes{};
    for (std::size_t t = 0; t < a.tokens; ++t) sizes = larger_sizes(a.values + t * a.stride, size, sizes);
    const CodeScales found(Ints{} + largest_of(sizes), kValueCode);
    const Floats inverse = found.inverses;
    for (std::size_t t = 0; t < a.tokens; t += 2, to += wide) {
        const float* const row = a.values + t * a.stride;
        const float* const next = row + a.stride;
        for (std::size_t i = 0; i < size; i += kFloats) {
            const Ints low = nearest(load_up_to(row + i, size - i) * inverse);
            const Ints high = t + 1 < a.tokens ? nearest(load_up_to(next + i, size - i) * inverse) : Ints{};
            store(to + i, (Floats)((low & 0xffff) | (high << 16)));
        }
        for (std::size_t i = rounded_to(size, kFloats); i < wide; ++i) to[i] = 0;
    }
    return found.scales[0];
}

// Multiplies rows by all blocks of weights, as many at a time as fill a tile, then by the rest: take(block, row, sums)
// receives the sums of one block.
template <typename Words, std::size_t Blocks = kTileBlocks, typename Take>
CARE_INLINE void multiply_blocks(TileWeights weights, std::size_t blocks, const Rows& rows, const Take& take,
                                 std::size_t block = 0) {
    Prefetcher none({nullptr, 0}, 0, 0);
    for (; block + Blocks <= blocks; block += Blocks, weights.from += Blocks * weights.block_stride) {
        multiply_rows<Words, Blocks>(weights, rows, none,
                                     [&](std::size_t row, const auto& sums) __attribute__((always_inline)) {
#pragma GCC unroll 8
                                         for (std::size_t b = 0; b < Blocks; ++b) take(block + b, row, sums[b]);
                                     });
    }
    if constexpr (Blocks > 1) multiply_blocks<Words, Blocks / 2>(weights, blocks, rows, take, block);
}

// Prefetches rows that other threads have written. They are kilobytes apart, which defeats hardware prefetchers.
CARE_INLINE void prefetch_rows(const float* from, std::size_t stride, std::size_t count, std::size_t size) {
    constexpr std::size_t kMaxPrefetchRows = 64, kStep = kLineBytes / sizeof(float);
    for (std::size_t row = 0; row < count && row < kMaxPrefetchRows; ++row) {
        for (std::size_t i = 0; i < size; i += kStep) __builtin_prefetch(from + row * stride + i, 0, 2);
    }
}

// Packs the keys like weights, in blocks of sixteen tokens; there are zeros for tokens that complete a block.
template <bool kCoded>
CARE_INLINE void pack_keys(const Attention& a, float limit, float* keys, float* scales, float* prepared) {
    const std::size_t wide = rounded_to(a.head_size, kBlock);
    const std::size_t words = kCoded ? (a.head_size + 1) / 2 : a.head_size, whole = words / kFloats * kFloats;
    for (std::size_t t = 0; t < a.tokens; t += kFloats) {
        float* const to = keys + t / kBlock * kBlock * words + t % kBlock;
        const std::size_t count = a.tokens - t < kFloats ? a.tokens - t : kFloats;
        const float* rows[kFloats];
        for (std::size_t r = 0; r < count; ++r) {
            rows[r] = prepare(a, a.keys + (t + r) * a.stride, a.key_norm, t + r, prepared + r * wide);
        }
        if constexpr (kCoded) {
            encode_rows(rows, count, a.head_size, limit, prepared, wide, scales + t);
            for (std::size_t r = 0; r < count; ++r) rows[r] = prepared + r * wide;
        }
        for (std::size_t i = 0; i < whole; i += kFloats) {
            Floats square[kFloats];
            for (std::size_t r = 0; r < kFloats; ++r) square[r] = r < count ? load<Floats>(rows[r] + i) : Floats{};
            transpose(square);
#pragma GCC unroll 16
            for (std::size_t r = 0; r < kFloats; ++r) store(to + (i + r) * kBlock, square[r]);
        }
        for (std::size_t i = whole; i < words; ++i) {
            for (std::size_t r = 0; r < kFloats; ++r) to[i * kBlock + r] = r < count ? rows[r][i] : 0;
        }
    }
    for (std::size_t t = rounded_to(a.tokens, kFloats); t % kBlock != 0; t += kFloats) {
        float* const to = keys + t / kBlock * kBlock * words + t % kBlock;
        for (std::size_t i = 0; i < words; ++i) store(to + i * kBlock, Floats{});
    }
}

template <typename Words>
void attend(const Attention& a) {
    constexpr bool kCoded = !std::is_same_v<Words, Float32Words>;
    const std::size_t size = a.head_size, wide = rounded_to(size, kBlock), most = rounded_to(a.tokens, kBlock);
    const std::size_t words = kCoded ? (size + 1) / 2 : size, query_stride = wide + 16, score_stride = most + 16;
    float* const keys = a.scratch;
    float* const packed_values = keys + most * wide / 2;  // codes: both fit where float32 keys are
    float* const key_scales = keys + most * wide;
    float* const queries = key_scales + most;
    float* const scores = queries + kAttentionRows * query_stride;
    float* const prepared = scores + kAttentionRows * score_stride;
    // Sums of products of two such codes over a head fit into int32.
    const double exact = __builtin_floor(__builtin_sqrt(2147483647.0 / static_cast<double>(size)));
    const float limit = exact < double{kHeadCode} ? static_cast<float>(exact) : kHeadCode;

    prefetch_rows(a.keys, a.stride, a.tokens, size);
    prefetch_rows(a.queries, a.query_stride, a.query_count, size);
    prefetch_rows(a.values, a.stride, a.tokens, size);
    pack_keys<kCoded>(a, limit, keys, key_scales, prepared);
    float value_scale = 1;
    if constexpr (kCoded) value_scale = pack_values(a, wide, packed_values);

    for (std::size_t first = 0; first < a.query_count; first += kAttentionRows) {
        const std::size_t count = a.query_count - first < kAttentionRows ? a.query_count - first : kAttentionRows;
        const std::size_t position = a.first_position + first;
        float scales[rounded_to(kAttentionRows, kFloats)];
        for (std::size_t r = 0; r < count; r += kFloats) {
            const std::size_t some = count - r < kFloats ? count - r : kFloats;
            float* const to = queries + r * query_stride;
            const float* rows[kFloats];
            for (std::size_t i = 0; i < some; ++i) {
                const float* const from = a.queries + (first + r + i) * a.query_stride;
                rows[i] = prepare(a, from, a.query_norm, position + r + i, to + i * query_stride);
            }
            if constexpr (kCoded) {
                encode_rows(rows, some, size, limit, to, query_stride, scales + r);
                // Scores as logarithms to base 2.
                store(scales + r, load<Floats>(scales + r) * (a.scaling * kLog2E));
            } else {
                for (std::size_t i = 0; i < some; ++i) {
                    for (std::size_t k = 0; k < size; ++k) to[i * query_stride + k] = rows[i][k] * a.scaling;
                }
            }
        }
        // Tokens that the last of these queries attends to. More of them would add zeros.
        const std::size_t tokens = a.causal && position + count < a.tokens ? position + count : a.tokens;
        const Rows query_rows{reinterpret_cast<const std::byte*>(queries), query_stride * sizeof(float), nullptr, count};
        const TileWeights key_weights{reinterpret_cast<const std::byte*>(keys), words * kGroupBytes, kGroupBytes,
                                      words};
        // The scores of tokens that complete a block are never used.
        multiply_blocks<Words>(
            key_weights, rounded_to(tokens, kBlock) / kBlock, query_rows,
            [&](std::size_t block, std::size_t row, const auto& sums) __attribute__((always_inline)) {
                float* const to = scores + row * score_stride + block * kBlock;
#pragma GCC unroll 8
                for (std::size_t p = 0; p < kBlockRegisters; ++p) {
                    if constexpr (kCoded) {
                        const Floats by_key = load<Floats>(key_scales + block * kBlock + p * kFloats) * scales[row];
                        store(to + p * kFloats, __builtin_convertvector(sums[p], Floats) * by_key);
                    } else {
                        store(to + p * kFloats, sums[p]);
                    }
                }
            });
        float inverses[rounded_to(kAttentionRows, kFloats)];
        for (std::size_t r = 0; r < count; r += kCoded ? kFloats : 1) {
            const auto seen = [&](std::size_t i) { return a.causal ? position + r + i + 1 : tokens; };
            float* const rows = scores + r * score_stride;
            if constexpr (kCoded) {
                const std::size_t some = count - r < kFloats ? count - r : kFloats;
                weigh_coded(rows, score_stride, some, seen, tokens, inverses + r);
                store(inverses + r, load<Floats>(inverses + r) * value_scale);
            } else {
                inverses[r] = weigh(rows, seen(0), tokens);
            }
        }
        for (std::size_t from = 0; from < tokens; from += kSummedTokens<kCoded>) {
            const std::size_t left = tokens - from, some = left < kSummedTokens<kCoded> ? left : kSummedTokens<kCoded>;
            const std::byte* const weights = reinterpret_cast<const std::byte*>(scores) + from * Words::kInputBytes;
            const Rows weight_rows{weights, score_stride * sizeof(float), nullptr, count};
            const float* const values = kCoded ? packed_values + from / 2 * wide : a.values;
            const TileWeights value_weights{reinterpret_cast<const std::byte*>(values), kGroupBytes,
                                            (kCoded ? wide : a.stride) * sizeof(float), kCoded ? (some + 1) / 2 : some};
            multiply_blocks<Words>(
                value_weights, wide / kBlock, weight_rows,
                [&](std::size_t block, std::size_t row, const auto& sums) __attribute__((always_inline)) {
                    float* const to = a.to + (first + row) * a.to_stride + block * kBlock;
#pragma GCC unroll 8
                    for (std::size_t p = 0; p < kBlockRegisters; ++p) {
                        const std::size_t at = block * kBlock + p * kFloats, room = size - (at < size ? at : size);
                        Floats mixed = as_floats(sums[p]) * inverses[row];
                        if (kCoded && from > 0) mixed += load_up_to(to + p * kFloats, room);
                        store_first(to + p * kFloats, room, mixed);
                    }
                });
        }
    }
}

}  // namespace
}  // namespace care
