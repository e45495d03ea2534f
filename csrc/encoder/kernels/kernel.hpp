// The inner loops of the encoder: one set of functions for each instruction set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "care/encoder.hpp"

namespace care {

// Layout of a packed linear map: panels of 64 outputs. For every group of inputs a panel has one word of four bytes per
// output: four int8 inputs, stored as c + 128, or one float32 input.
inline constexpr std::size_t kPanel = 64;
inline constexpr std::size_t kWord = 4;
inline constexpr std::size_t kPanelGroupBytes = kPanel * kWord;

inline constexpr std::size_t rounded_to(std::size_t count, std::size_t unit) {
    return (count + unit - 1) / unit * unit;
}

// A packed linear map. Padding outputs have weights, scales and biases of zero.
struct PackedMap {
    const std::byte* panels;  // [panel_count][groups][kPanel][kWord], 64-byte aligned
    const float* scales;      // [panel_count * kPanel], int8 only
    const float* biases;      // [panel_count * kPanel]
    std::size_t groups;       // of inputs: of four inputs in int8, of one in float32
    std::size_t panel_count;

    std::size_t panel_bytes() const { return groups * kPanelGroupBytes; }
    const std::byte* panel(std::size_t which) const { return panels + which * panel_bytes(); }
};

// A code beyond 127, of one of a row's two largest values, is low + 128 high: `low` is among the row's codes, and `high`
// is the only code of a word that is multiplied with the same group of weights in addition.
inline constexpr std::size_t kOutliers = 2;
inline constexpr int kHighBits = 7;

// What a row has beside its codes. Outliers that it does not have are words of zero.
struct RowCode {
    float scale;
    std::int32_t correction;  // 128 times the sum of the whole codes
    std::int32_t outlier_words[kOutliers];
    std::uint32_t outlier_groups[kOutliers];
};

// The rows that a linear map is applied to.
struct Rows {
    const std::byte* words;  // the groups of each row, int8 codes or float32
    std::size_t stride;      // bytes per row
    const RowCode* codes;    // int8 only
    std::size_t count;
};

// Memory that will be needed soon, to be prefetched.
struct Prefetch {
    const std::byte* from;
    std::size_t lines;  // of 64 bytes
};

// Writes the outputs of one panel: to[row * stride + o - first output of the panel].
using Multiply = void(const PackedMap& map, std::size_t panel, const Rows& rows, Prefetch prefetch, float* to,
                      std::size_t stride);

// A norm over `width` values. Arrays are padded with zeros to a multiple of sixteen.
struct RowNorm {
    NormKind kind;
    const float *weights, *biases;
    std::size_t width;
    float epsilon;
};

// sums = a + b, to = norm(sums); b may be null, and all others may be the same.
using AddNorm = void(const RowNorm& norm, const float* a, const float* b, float* sums, float* to);

// Quantises a row to int8. Both row and codes are padded with zeros to a multiple of sixteen.
using Quantize = void(const float* row, std::size_t width, std::int8_t* codes, RowCode* code);

// One head of one text.
struct Attention {
    bool causal;
    const float* queries;  // [query_count], query_stride floats apart
    std::size_t query_stride, query_count, first_position;
    const float *keys, *values;  // [tokens], stride floats apart; readable up to a multiple of 16 values each
    std::size_t stride, tokens;
    const float *cosines, *sines;  // [positions][head_size], or null: nothing is rotated
    const float *query_norm, *key_norm;  // [head_size], weights of an RMS norm, or null
    float epsilon;
    std::size_t head_size;
    float scaling;
    float* scratch;  // attention_scratch(tokens, head_size) floats, 64-byte aligned
    float* to;       // [query_count], to_stride floats apart
    std::size_t to_stride;
};
using Attend = void(const Attention& attention);

// Query rows of one tile of attention, the same for every instruction set.
inline constexpr std::size_t kAttentionRows = 24;

// Scratch memory of attention: packed keys and their scales, a tile of prepared queries and their attention weights,
// and sixteen prepared keys. Rows have sixteen more floats, so that they do not all map to the same set of the
// first-level cache.
inline constexpr std::size_t attention_scratch(std::size_t tokens, std::size_t head_size) {
    const std::size_t all = rounded_to(tokens, 16), wide = rounded_to(head_size, 16);
    return all * (wide + 1) + kAttentionRows * (wide + 16 + all + 16) + 16 * wide;
}

struct EncoderKernel {
    std::string_view instruction_set;
    Multiply* multiply[2];  // by Precision
    Multiply* multiply_activated[2][kActivations];
    // For a panel whose blocks of sixteen outputs are gate, up, gate, up: writes act(gate) * up, 32 values.
    Multiply* multiply_gated[2][kActivations];
    AddNorm* add_norm;
    Quantize* quantize;
    Attend* attend[2];
};

// The kernel of that name, one of instruction_sets(), or the fastest if it is empty. Throws std::invalid_argument.
const EncoderKernel& encoder_kernel(std::string_view instruction_set);

}  // namespace care
