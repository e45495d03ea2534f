// The gte network as a query encoder on the CPU, in float32 or int8: token ids to embeddings.
//
// The texts of a batch are concatenated without padding, so a batch is a matrix with one row per token. For each row
//
//     x = N(word_embeddings[id] + token_type)                   N: LayerNorm over the row
//     for every layer:  x = N(x + O attention(R Q x, R K x, V x))       R: rotary position embedding
//                       x = N(x + D (gelu(G x) * U x))                  gelu(a) = a Phi(a)
//
// The embedding of a text is pooled from its rows, normalised and truncated. With first-token or last-token pooling the
// last layer computes that token alone: the others are needed for K and V only.
//
// int8. In a linear map y[o] = sum_i W[o,i] x[i] + b[o] the weights are quantised with one scale per output and the
// activations with one scale per row, both as round(v * 127 / max |v|), ties to even, scale = max |v| / 127:
//
//     y[o] = float(sum_i w[o,i] c[i]) * (row scale * output scale[o]) + b[o]
//
// The sum is an exact int32 (at most 255 * 127 * 65536 < 2^31); everything else is float32.
//
// The embedding of a text does not depend on its batch, to the last bit. Every output of a linear map is summed over
// its inputs in order, in one accumulator. Every other sum is over a row or over the tokens of one text, in an order
// that depends on its width alone. Fused multiply-adds are used only where the source says so. So neither the other
// texts nor the threads nor the tiling can change a result. The instruction set can, in the last bits of float32.
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

// LayerNorm: (x - mean) / sqrt(variance + epsilon) * weights + bias over a row.
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
    std::size_t positions;  // maximum tokens of a text
    float epsilon;          // of every LayerNorm
};

struct GteEmbedding {
    const float* word_embeddings;  // [vocabulary][hidden], not copied: must outlive the encoder
    const float* token_type;       // [hidden], added to every token, or null
    Norm norm;
    const float* cosines;  // [positions][head_size], of the rotary position embedding
    const float* sines;
};

struct GteLayer {
    Linear query, key, value, output;  // hidden to heads * head_size, and back
    Norm attention_norm;
    Linear gate, up, down;  // hidden to intermediate, and back
    Norm feed_forward_norm;
};

// How hidden states become an embedding: care_accel/kernels/reference.py.
struct Reduction {
    Pooling pooling;
    bool normalize_first;  // at full width, before truncation to `width` values; otherwise after it
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

    // Packs copies of the weights. Not thread-safe with encode(). Throws std::invalid_argument for shapes that do not
    // fit and, in int8, for weights that are not finite.
    void add_layer(const GteLayer& layer);

    // Writes [texts][width] embeddings. Text t has the next lengths[t] >= 1 ids, each below the vocabulary.
    //
    // Thread-safe: calls take turns, each with all the threads that it asks for. Between calls the threads sleep; after
    // fork() the child starts its own. `threads` never changes the result; a small batch uses fewer.
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
