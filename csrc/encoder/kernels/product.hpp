// Products of packed weights with rows. Included by kernel_source.cpp alone.
//
// A tile is a few blocks of sixteen outputs by a few rows; its sums fill the registers. One pass over the inputs loads
// each weight once for all rows of the tile.
#pragma once

#include "activations.hpp"
#include "float_registers.hpp"
#include "kernel.hpp"

namespace care {
namespace {

#if defined(__AVX512F__)
constexpr std::size_t kTileBlocks = 4, kTileRows = 6;
#elif defined(__AVX__)
constexpr std::size_t kTileBlocks = 2, kTileRows = 3;
#else
constexpr std::size_t kTileBlocks = 2, kTileRows = 1;
#endif
constexpr std::size_t kPanelBlocks = kPanel / kBlock;
constexpr std::size_t kLineBytes = 64;

// Words of one float32 input.
struct Float32Words {
    using Sum = Floats;
    static constexpr bool kCodes = false;  // whether rows have a RowCode
    using Weights = Floats;
    using Word = float;
    static constexpr std::size_t kInputBytes = 4;
    CARE_INLINE static Weights weights(Bytes bytes) { return (Floats)bytes; }
    CARE_INLINE static void add(Sum& sum, Weights weights, Word word) {
        sum = multiply_add(weights, broadcast(word), sum);
    }
    CARE_INLINE static float row_scale(const Rows&, std::size_t) { return 1; }
    CARE_INLINE static Floats output(const PackedMap& map, std::size_t at, Sum sum, float) {
        return sum + load<Floats>(map.biases + at);
    }
};

// Words of four int8 inputs.
struct CodeWords {
    using Sum = Ints;
    static constexpr bool kCodes = true;
    using Word = std::int32_t;
#if defined(__AVX2__) && !defined(__AVX512VNNI__) && !defined(__AVXVNNI__)
    // add_products would limit the codes of rows to 63. |w| times sign(w) c adds pairs in 16 bits too, but 2 * 127 *
    // 127 fits.
    struct Weights {
        __m256i sizes, signs;
    };
    static constexpr bool kCorrected = false;
    CARE_INLINE static Weights weights(Bytes bytes) {
        const __m256i centred = (__m256i)(bytes ^ 0x80);
        return {_mm256_abs_epi8(centred), centred};
    }
    CARE_INLINE static void add(Sum& sum, const Weights& weights, Word word) {
        const __m256i values = _mm256_sign_epi8(_mm256_set1_epi32(word), weights.signs);
        const __m256i pairs = _mm256_maddubs_epi16(weights.sizes, values);
        sum += (Ints)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    }
#else
    using Weights = Bytes;
    CARE_INLINE static Weights weights(Bytes bytes) { return bytes; }
    static constexpr bool kCorrected = true;
    CARE_INLINE static void add(Sum& sum, Weights weights, Word word) { add_products(sum, weights, word); }
#endif
    CARE_INLINE static float row_scale(const Rows& rows, std::size_t row) { return rows.codes[row].scale; }
    CARE_INLINE static Floats output(const PackedMap& map, std::size_t at, Sum sum, float row_scale) {
        return multiply_add(__builtin_convertvector(sum, Floats), load<Floats>(map.scales + at) * row_scale,
                            load<Floats>(map.biases + at));
    }
};

// Words of two int16 inputs, whose products are added exactly.
struct PairWords {
    using Sum = Ints;
    static constexpr bool kCodes = false;
    using Weights = Bytes;
    using Word = std::int32_t;
    static constexpr std::size_t kInputBytes = 2;
    CARE_INLINE static Weights weights(Bytes bytes) { return bytes; }
    CARE_INLINE static void add(Sum& sum, Weights weights, Word word) { add_pairs(sum, weights, word); }
};

// The weights of a tile.
struct TileWeights {
    const std::byte* from;
    std::size_t block_stride, group_stride;  // bytes
    std::size_t groups;
};

// Spreads prefetches evenly over the remaining passes.
class Prefetcher {
public:
    CARE_INLINE Prefetcher(Prefetch prefetch, std::size_t groups, std::size_t passes)
        : from_(prefetch.from), left_(prefetch.lines), groups_(groups), passes_(passes) {}
    CARE_INLINE void start_pass() {
        const std::size_t steps = groups_ * passes_--;
        lines_ = left_ > 0 ? (left_ + steps - 1) / steps : 0;
    }
    CARE_INLINE void step() {
        const std::size_t lines = lines_ < left_ ? lines_ : left_;
        for (std::size_t i = 0; i < lines; ++i) __builtin_prefetch(from_ + i * kLineBytes, 0, 2);
        from_ += lines * kLineBytes;
        left_ -= lines;
    }

private:
    const std::byte* from_;
    std::size_t left_, groups_, passes_, lines_ = 0;
};

// Starts the sums of a row: with the high parts of its outliers, and less 128 times its codes where weights are stored
// as their codes plus 128.
template <typename Words, std::size_t Blocks>
CARE_INLINE void start_row(const TileWeights& weights, const Rows& rows, std::size_t row,
                           typename Words::Sum (&sums)[Blocks][kBlockRegisters]) {
#pragma GCC unroll 8
    for (std::size_t b = 0; b < Blocks; ++b) {
#pragma GCC unroll 8
        for (std::size_t p = 0; p < kBlockRegisters; ++p) {
            sums[b][p] = typename Words::Sum{};
            if constexpr (Words::kCodes) {
                const RowCode& code = rows.codes[row];
#pragma GCC unroll 8
                for (std::size_t k = 0; k < kOutliers; ++k) {
                    const std::byte* const from = weights.from + code.outlier_groups[k] * weights.group_stride +
                                                  b * weights.block_stride + p * kRegisterBytes;
                    Words::add(sums[b][p], Words::weights(load<Bytes>(from)), code.outlier_words[k]);
                }
                sums[b][p] <<= kHighBits;
                if constexpr (Words::kCorrected) sums[b][p] -= code.correction;
            }
        }
    }
}

template <typename Words, std::size_t Blocks, std::size_t Count>
using TileSums = typename Words::Sum[Count][Blocks][kBlockRegisters];

// Computes the sums of `Count` rows from `first`. Not inlined: one instance for each tile size, whatever is done with
// the sums. These pass through the first-level cache once in hundreds of steps.
template <typename Words, std::size_t Blocks, std::size_t Count>
[[gnu::noinline]] void sum_tile(const TileWeights& weights, const Rows& rows, std::size_t first, Prefetcher& prefetcher,
                                TileSums<Words, Blocks, Count>& found) {
    Prefetcher local = prefetcher;
    TileSums<Words, Blocks, Count> sums;
    const std::byte* row[Count];
#pragma GCC unroll 8
    for (std::size_t r = 0; r < Count; ++r) {
        row[r] = rows.words + (first + r) * rows.stride;
        start_row<Words, Blocks>(weights, rows, first + r, sums[r]);
    }
    local.start_pass();
    const std::byte* from = weights.from;
    const std::size_t groups = weights.groups, block_stride = weights.block_stride, step = weights.group_stride;
    for (std::size_t g = 0; g < groups; ++g, from += step) {
        local.step();
        typename Words::Weights values[Blocks][kBlockRegisters];
#pragma GCC unroll 8
        for (std::size_t b = 0; b < Blocks; ++b) {
#pragma GCC unroll 8
            for (std::size_t p = 0; p < kBlockRegisters; ++p) {
                values[b][p] = Words::weights(load<Bytes>(from + b * block_stride + p * kRegisterBytes));
            }
        }
#pragma GCC unroll 8
        for (std::size_t r = 0; r < Count; ++r) {
            const auto word = load<typename Words::Word>(row[r] + g * kWord);
#pragma GCC unroll 8
            for (std::size_t b = 0; b < Blocks; ++b) {
#pragma GCC unroll 8
                for (std::size_t p = 0; p < kBlockRegisters; ++p) Words::add(sums[r][b][p], values[b][p], word);
            }
        }
    }
    prefetcher = local;
#pragma GCC unroll 8
    for (std::size_t r = 0; r < Count; ++r) {
#pragma GCC unroll 8
        for (std::size_t b = 0; b < Blocks; ++b) {
#pragma GCC unroll 8
            for (std::size_t p = 0; p < kBlockRegisters; ++p) found[r][b][p] = sums[r][b][p];
        }
    }
}

// Computes the sums of `count` <= MaxCount rows from `first`: the last rows may be too few to fill the registers.
template <typename Words, std::size_t Blocks, std::size_t MaxCount>
CARE_INLINE void sum_rows(const TileWeights& weights, const Rows& rows, std::size_t first, std::size_t count,
                          Prefetcher& prefetcher, TileSums<Words, Blocks, kTileRows>& found) {
    if constexpr (MaxCount > 0) {
        if (count < MaxCount) {
            return sum_rows<Words, Blocks, MaxCount - 1>(weights, rows, first, count, prefetcher, found);
        }
        sum_tile<Words, Blocks, MaxCount>(weights, rows, first, prefetcher,
                                          reinterpret_cast<TileSums<Words, Blocks, MaxCount>&>(found));
    }
}

// Multiplies all rows: take(row, sums [Blocks][kBlockRegisters]) receives the sums of each.
template <typename Words, std::size_t Blocks, typename Take>
CARE_INLINE void multiply_rows(const TileWeights& weights, const Rows& rows, Prefetcher& prefetcher, const Take& take) {
    for (std::size_t first = 0; first < rows.count; first += kTileRows) {
        const std::size_t left = rows.count - first, count = left < kTileRows ? left : kTileRows;
        TileSums<Words, Blocks, kTileRows> sums;
        sum_rows<Words, Blocks, kTileRows>(weights, rows, first, count, prefetcher, sums);
        for (std::size_t r = 0; r < count; ++r) take(first + r, sums[r]);
    }
}

// Multiplies the tiles of one panel: take(block of the panel, row, sums) receives the sums.
template <typename Words, typename Take>
CARE_INLINE void multiply_panel(const PackedMap& map, std::size_t panel, const Rows& rows, const Prefetch& prefetch,
                                const Take& take) {
    constexpr std::size_t kTiles = kPanelBlocks / kTileBlocks;
    Prefetcher prefetcher(prefetch, map.groups, kTiles * ((rows.count + kTileRows - 1) / kTileRows));
    for (std::size_t tile = 0; tile < kTiles; ++tile) {
        const std::size_t block = tile * kTileBlocks;
        const TileWeights weights{map.panel(panel) + block * kGroupBytes, kGroupBytes, kPanelGroupBytes, map.groups};
        multiply_rows<Words, kTileBlocks>(weights, rows, prefetcher, [&](std::size_t row, const auto& sums) __attribute__((
                                                                    always_inline)) { take(block, row, sums); });
    }
}

template <typename Words, typename Activate = Identity>
void multiply(const PackedMap& map, std::size_t panel, const Rows& rows, Prefetch prefetch, float* to,
              std::size_t stride) {
    const auto take = [&](std::size_t block, std::size_t row, const auto& sums) __attribute__((always_inline)) {
        const float scale = Words::row_scale(rows, row);
#pragma GCC unroll 8
        for (std::size_t b = 0; b < kTileBlocks; ++b) {
#pragma GCC unroll 8
            for (std::size_t p = 0; p < kBlockRegisters; ++p) {
                const std::size_t at = (block + b) * kBlock + p * kFloats;
                const Floats output = Words::output(map, panel * kPanel + at, sums[b][p], scale);
                store(to + row * stride + at, Activate::of(output));
            }
        }
    };
    multiply_panel<Words>(map, panel, rows, prefetch, take);
}

template <typename Words, typename Activate>
void multiply_gated(const PackedMap& map, std::size_t panel, const Rows& rows, Prefetch prefetch, float* to,
                    std::size_t stride) {
    const auto take = [&](std::size_t block, std::size_t row, const auto& sums) __attribute__((always_inline)) {
        const float scale = Words::row_scale(rows, row);
#pragma GCC unroll 8
        for (std::size_t b = 0; b < kTileBlocks; b += 2) {
#pragma GCC unroll 8
            for (std::size_t p = 0; p < kBlockRegisters; ++p) {
                const std::size_t at = panel * kPanel + (block + b) * kBlock + p * kFloats;
                const Floats gate = Words::output(map, at, sums[b][p], scale);
                const Floats up = Words::output(map, at + kBlock, sums[b + 1][p], scale);
                const std::size_t half = (block + b) / 2 * kBlock + p * kFloats;
                store(to + row * stride + half, Activate::of(gate) * up);
            }
        }
    };
    multiply_panel<Words>(map, panel, rows, prefetch, take);
}

}  // namespace
}  // namespace care
