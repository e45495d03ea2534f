// The gte network as a query encoder: token ids to finished vectors, on the processor, in float32 or int8.
//
// Texts lie one after another without padding, so that a batch is a matrix with one row a token. For each row
//
//     x = N(words[id] + type)                                   N: LayerNorm over the row
//     for every layer:  x = N(x + O attention(rotated Q x, rotated K x, V x))
//                       x = N(x + D (gelu(G x) * U x))          gelu(a) = a Phi(a)
//
// and a text's vector is pooled from its rows, normalised and cut. With first-token or last-token pooling the last
// layer computes that token alone: the others are needed for K and V only.
//
// int8. Of a linear map y[o] = sum_i W[o,i] x[i] + b[o] the weights are coded with one scale an output and the
// activations with one scale a row, both as round(v * 127 / max |v|), halves to even, scale = max |v| / 127:
//
//     y[o] = float(sum_i w[o,i] c[i]) * (row scale * output scale[o]) + b[o]
//
// The sum is an exact int32 (at most 255 * 127 * 65536 < 2^31), everything else is float32.
//
// A text's vector does not depend on its batch, to the last bit. Every output of a linear map is summed over its
// inputs one after another, in one accumulator; every other sum is over a row, or over the tokens of one text, in an
// order that its width alone decides; fused multiply-adds are where the source says so and nowhere else. So neither
// the neighbours nor the threads nor how work is cut into tiles can change a result. The instruction set can, in the
// last bits of float32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

namespace care {

enum class Precision { kFloat32, kInt8 };
enum class Pooling { kFirst, kLast, kMean };

// y = W x + b; weights [outputs][inputs], bias [outputs] or null.
struct Linear {
    const float* weights;
    const float* bias;
    std::size_t outputs;
    std::size_t inputs;
};

// (x - mean) / sqrt(variance + epsilon) * weights + bias over a row.
struct Norm {
    const float* weights;
    const float* bias;
};

struct GteShape {
    std::size_t vocabulary;
    std::size_t hidden;
    std::size_t heads;
    std::size_t head_size;  // even
    std::size_t intermediate;
    std::size_t positions;  // tokens of a text at most
    float epsilon;          // of every norm
};

struct GteEmbedding {
    const float* words;  // [vocabulary][hidden], read in place as long as the encoder lives
    const float* type;   // [hidden], added to each, or null
    Norm norm;
    const float* cosines;  // [positions][head_size], of the rotation of queries and keys
    const float* sines;
};

struct GteLayer {
    Linear query, key, value, output;  // hidden to heads * head_size, and back
    Norm attention_norm;
    Linear gate, up, down;  // hidden to intermediate, and back
    Norm feed_forward_norm;
};

// How hidden states become a vector: care_accel/kernels/reference.py.
struct Reduction {
    Pooling pooling;
    bool normalize_first;  // at full width, before the cut to `width` values; else after it
    std::size_t width;
};

class GteEncoder {
public:
    // `instruction_set`: one of instruction_sets(), or empty for the fastest. Throws std::invalid_argument.
    GteEncoder(const GteShape& shape, const GteEmbedding& embedding, Precision precision,
               std::string_view instruction_set = {});
    ~GteEncoder();
    GteEncoder(const GteEncoder&) = delete;
    GteEncoder& operator=(const GteEncoder&) = delete;

    // Packs copies of the weights. Not while another thread encodes. Throws std::invalid_argument for shapes that do
    // not fit and, in int8, for weights that are not finite.
    void add_layer(const GteLayer& layer);

    // Writes [texts][width] vectors. Text t has the lengths[t] >= 1 next ids, each below the vocabulary.
    //
    // Calls from several threads take turns: each has all the threads that it asks for. They sleep in between; after
    // fork() the child starts its own. `threads` changes the time, never the result; a small batch uses fewer.
    void encode(const std::int64_t* ids, const std::int64_t* lengths, std::size_t texts, const Reduction& reduction,
                std::size_t threads, float* vectors) const;

    const GteShape& shape() const;
    std::size_t layers() const;
    std::size_t packed_bytes() const;

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace care
