// A transformer network as an encoder on the CPU, in float32 or int8: token ids to embeddings.
//
// A network is a description (Shape) and weights; there is one engine. The texts of a batch are concatenated without
// padding, so a batch is a matrix with one row per token. For each row, with post-norm
//
//     x = N(word_embeddings[id] + position_embeddings[p] + token_type)
//     for every layer:  x = N(x + O attention(R H Q x, R H K x, V x))
//                       x = N(x + D (act(G x) * U x))       gated, or D act(U x)
//
// N is LayerNorm or RMS norm over the row, R an optional rotary position embedding, H an optional RMS norm of a head.
// Every sum is normalised; with pre-norm the sum itself is carried on as x, and its norm is what the next map reads:
//
//     x = word_embeddings[id] + ..., n = N(x);  x = x + f(n), n = N(x) and so on; the last n is the output.
//
// Attention is bidirectional or causal. Several query heads in a row may share a key and value head.
//
// The embedding of a text is pooled from its rows, normalised and truncated. With first-token or last-token pooling the
// last layer computes that token alone: the others are needed for K and V only.
//
// int8. In a linear map y[o] = sum_i W[o,i] x[i] + b[o] the weights are quantised with one scale per output, as round(v
// * 127 / max |v|), ties to even, scale = max |v| / 127. The activations have one scale per row, m / 127, and codes
// round(v * 127 / m), where m is the third largest |v| of the row, or 1/128 of the largest if that is more: networks
// have rows with one or two values that are many times the others, which would leave the others few codes. So at most
// two codes of a row, the outliers, are beyond 127, and at most 127 * 128. They are split: c = low + 128 high, -64 <=
// low < 64. The low codes are multiplied with all the others, the high ones apart.
//
//     y[o] = float(sum_i w[o,i] c[i]) * (row scale * output scale[o]) + b[o]
//
// The sum is an exact int32: at most 255 * 127 * (65536 + 2 * 128) < 2^31, where 255 is the largest weight code as it is
// stored.
//
// The products of attention have int16 codes, because attention weights differ by orders of magnitude: queries and keys
// with one scale per token and head (up to 8191, or as much as keeps the sum over a head exact), values with one per
// text and head (up to 2047), attention weights e^(score - largest score) as round(4095 * weight); what they weigh is
// divided by the sum of their codes. Sums are exact over a head, and over 256 tokens in turn. Everything else is
// float32.
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
enum class NormKind { kLayer, kRms };
enum class NormPlace { kPost, kPre };
// kGelu: x Phi(x). kGeluTanh: x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, close to it. kSilu: x / (1 + e^-x).
enum class Activation { kGelu, kGeluTanh, kRelu, kSilu };
inline constexpr std::size_t kActivations = 4;

// y = W x + b; weights [outputs][inputs], bias [outputs] or null.
struct Linear {
    const float* weights;
    const float* bias;
    std::size_t outputs;
    std::size_t inputs;
};

// Over a row: (x - mean) / sqrt(variance + epsilon) * weights + bias; by RMS, the mean is taken for 0.
struct Norm {
    const float* weights;  // null: no norm, where that is allowed
    const float* bias;     // or null
};

struct Shape {
    std::size_t vocabulary;
    std::size_t hidden;
    std::size_t heads;
    std::size_t key_value_heads;  // divides heads
    std::size_t head_size;
    std::size_t intermediate;
    std::size_t positions;  // maximum tokens of a text
    float epsilon;          // of every norm
    NormKind norm = NormKind::kLayer;
    NormPlace place = NormPlace::kPost;
    Activation activation = Activation::kGelu;
    bool gated = true;
    bool causal = false;
};

// Embeddings of positions, added to those of words: token t of a text has row `first` + t. The id `uncounted`, if a
// text has it, gets row first - 1, and the tokens after it have the rows that they would have without it: so RoBERTa
// treats the padding id.
struct PositionTable {
    const float* rows = nullptr;  // [at least first + positions][hidden], or null: none are added
    std::size_t first = 0;
    std::int64_t uncounted = -1;
};

struct Embedding {
    const float* word_embeddings;  // [vocabulary][hidden], not copied: must outlive the encoder
    PositionTable positions;       // copied
    const float* token_type;       // [hidden], added to every token, or null
    Norm norm;
    const float* cosines;  // [positions][head_size], of the rotary position embedding; null: there is none
    const float* sines;
};

struct Layer {
    Linear query, key, value, output;  // hidden to heads (key_value_heads) * head_size, and back
    Norm query_norm, key_norm;         // of each head, by RMS; both or none
    Norm attention_norm;               // of the sum after attention
    Linear gate, up, down;             // hidden to intermediate, and back; no gate weights unless the shape is gated
    Norm feed_forward_norm;            // of the sum after the feed-forward
};

// How hidden states become an embedding: care_accel/kernels/reference.py.
struct Reduction {
    Pooling pooling;
    bool normalize_first;  // at full width, before truncation to `width` values; otherwise after it
    std::size_t width;
};

class Encoder {
public:
    // `instruction_set`: one of instruction_sets(), or empty for the fastest. Throws std::invalid_argument.
    Encoder(const Shape& shape, const Embedding& embedding, Precision precision, std::string_view instruction_set = {});
    ~Encoder();
    Encoder(const Encoder&) = delete;
    Encoder& operator=(const Encoder&) = delete;

    // Packs copies of the weights. Not thread-safe with encode(). Throws std::invalid_argument for shapes that do not
    // fit and, in int8, for weights that are not finite.
    void add_layer(const Layer& layer);

    // Writes [texts][width] embeddings. Text t has the next lengths[t] >= 1 ids, each below the vocabulary.
    //
    // Thread-safe: calls take turns, each with all the threads that it asks for. Between calls the threads sleep, so the
    // calling thread begins alone, and others take part once they have woken up: they run on other cores than it. After
    // fork() the child starts its own. `threads` never changes the result; a small batch uses fewer.
    void encode(const std::int64_t* ids, const std::int64_t* lengths, std::size_t texts, const Reduction& reduction,
                std::size_t threads, float* vectors) const;

    const Shape& shape() const;
    std::size_t layers() const;
    std::size_t packed_bytes() const;

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace care
