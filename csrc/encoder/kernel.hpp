// What the encoder does with all values: one set of functions for each instruction set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace care {

// Outputs of a packed linear map lie in panels, four bytes of each side by side: four coded inputs, c + 128 each, or
// one float32 input.
inline constexpr std::size_t kPanel = 64;
inline constexpr std::size_t kWord = 4;
inline constexpr std::size_t kPanelGroupBytes = kPanel * kWord;

inline constexpr std::size_t rounded_to(std::size_t count, std::size_t unit) {
    return (count + unit - 1) / unit * unit;
}

// A packed linear map. Outputs that only fill up a panel have weights, scales and biases of zero.
struct PackedMap {
    const std::byte* panels;  // [panel_count][groups][kPanel][kWord], from an address that 64 divides
    const float* scales;      // [panel_count * kPanel], in int8 alone
    const float* biases;      // [panel_count * kPanel]
    std::size_t groups;       // of inputs: of four in int8, of one in float32
    std::size_t panel_count;

    std::size_t panel_bytes() const { return groups * kPanelGroupBytes; }
    const std::byte* panel(std::size_t which) const { return panels + which * panel_bytes(); }
};

// Rows that a map is applied to.
struct Rows {
    const std::byte* words;  // groups of each row, codes or float32
    std::size_t stride;      // bytes from row to row
    const float* scales;     // in int8 alone, as the next
    const std::int32_t* corrections;  // 128 times the sum of a row's codes
    std::size_t count;
};

// Bytes that will be needed soon, fetched meanwhile.
struct Ahead {
    const std::byte* from;
    std::size_t lines;  // of 64 bytes
};

// Writes the outputs of one panel: to[row * stride + o].
using Multiply = void(const PackedMap& map, std::size_t panel, const Rows& rows, Ahead ahead, float* to,
                      std::size_t stride);

// to = norm(a + b) over `width` values; b may be null. Arrays have zeros up to a multiple of sixteen.
using AddNorm = void(const float* a, const float* b, const float* weights, const float* biases, std::size_t width,
                     float epsilon, float* to);

// Codes of a row, with zeros up to a multiple of sixteen in it and after it.
using Quantize = void(const float* row, std::size_t width, std::int8_t* codes, float* scale, std::int32_t* correction);

// One head of one text.
struct Attention {
    const float* queries;  // [query_count], query_stride floats apart
    std::size_t query_stride, query_count, first_position;
    const float *keys, *values;  // [tokens], stride floats apart; 16 may be read where head_size is no multiple of it
    std::size_t stride, tokens;
    const float *cosines, *sines;  // [positions][head_size]
    std::size_t head_size;
    float scaling;
    float* scratch;  // attention_scratch(tokens, head_size) floats, from an address that 64 divides
    float* to;       // [query_count], to_stride floats apart
    std::size_t to_stride;
};
using Attend = void(const Attention& attention);

// Query rows that are attended to together, whatever the instruction set.
inline constexpr std::size_t kAttentionRows = 24;

// Packed keys, and of some queries the rotated values and the weights of all tokens. Sixteen floats more a row, so
// that rows do not share their place in the first-level cache.
inline constexpr std::size_t attention_scratch(std::size_t tokens, std::size_t head_size) {
    const std::size_t all = rounded_to(tokens, 16), wide = rounded_to(head_size, 16);
    return all * wide + kAttentionRows * (wide + 16 + all + 16) + wide;
}

struct EncoderKernel {
    std::string_view instruction_set;
    Multiply* multiply[2];  // by Precision
    // Of a panel whose blocks of sixteen outputs are gate, up, gate, up: writes gelu(gate) * up, 32 values.
    Multiply* multiply_gated[2];
    AddNorm* add_norm;
    Quantize* quantize;
    Attend* attend;
};

// The kernel of that name, one of instruction_sets(), or the fastest if it is empty. Throws std::invalid_argument.
const EncoderKernel& encoder_kernel(std::string_view instruction_set);

}  // namespace care
