// A packed network, and one batch going through it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <numeric>
#include <vector>

#include "care/encoder.hpp"
#include "kernels/kernel.hpp"
#include "packing.hpp"
#include "passes.hpp"
#include "../threads/phases.hpp"
#include "../threads/thread_pool.hpp"

namespace care {

struct PaddedNorm {
    PaddedNorm() = default;
    PaddedNorm(const Norm& norm, std::size_t width)
        : weights(padded(norm.weights, norm.weights ? width : 0)), biases(rounded_to(width, kPanel)) {
        if (norm.bias) biases = padded(norm.bias, width);
    }
    const float* given() const { return weights.empty() ? nullptr : weights.data(); }
    std::vector<float> weights, biases;
};

struct PackedLayer {
    Packed query_key_value, output, up, down;  // up is interleaved with the gate, if there is one
    PaddedNorm query_norm, key_norm, attention_norm, feed_forward_norm;
    std::size_t bytes() const { return query_key_value.bytes() + output.bytes() + up.bytes() + down.bytes(); }
};

struct Network {
    Shape shape;
    Precision precision;
    const EncoderKernel* kernel;
    const float* word_embeddings;
    // Rows of rounded_to(hidden, kPanel), added to word embeddings: the token type, plus a position each if there is a
    // table of them. Empty if nothing is added.
    std::vector<float> added;
    PositionTable positions;
    PaddedNorm norm;
    std::vector<float> cosines, sines;
    std::vector<PackedLayer> layers;

    // Values of all query heads, and of all key or value heads.
    std::size_t inner() const { return shape.heads * shape.head_size; }
    std::size_t key_value_inner() const { return shape.key_value_heads * shape.head_size; }
    // The narrowest slices of whole panels in which every head is whole.
    std::size_t head_slice() const {
        const std::size_t whole = std::lcm(kPanel, shape.head_size);
        const std::size_t queries = rounded_to(inner(), kPanel), keys = rounded_to(key_value_inner(), kPanel);
        return queries % whole == 0 && keys % whole == 0 ? whole : queries + 2 * keys;
    }
    bool pre_norm() const { return shape.place == NormPlace::kPre; }
    std::size_t bytes() const {
        std::size_t sum = 0;
        for (const PackedLayer& layer : layers) sum += layer.bytes();
        return sum;
    }
};

// A matrix with padded rows: they are 64-byte aligned, but do not all map to the same set of the first-level cache. The
// padding stays zero.
template <typename Value>
class Buffer {
public:
    // Loses the values if it has to grow.
    void reserve(std::size_t rows, std::size_t width) {
        stride_ = rounded_to(width, kPanel) + kPanel / sizeof(Value);
        const std::size_t bytes = rows * stride_ * sizeof(Value);
        if (bytes > pages_.size()) pages_ = Pages(bytes);
    }
    Value* row(std::size_t which) const { return reinterpret_cast<Value*>(pages_.data()) + which * stride_; }
    std::size_t stride() const { return stride_; }

private:
    Pages pages_;
    std::size_t stride_ = 0;
};

// A matrix in slices of columns, one after another, each with all rows: attention reads one head of all tokens, whose
// values are then close together.
class Slices {
public:
    // Widths are multiples of kPanel. Loses the values.
    void reserve(std::size_t rows, std::size_t width, std::size_t slice) {
        rows_ = rows;
        slice_ = slice;
        // As in a Buffer. Rows of one panel follow each other.
        stride_ = slice == kPanel ? slice : slice + kPanel / sizeof(float);
        const std::size_t bytes = width / slice * rows * stride_ * sizeof(float);
        if (bytes > pages_.size()) pages_ = Pages(bytes);
    }
    float* at(std::size_t row, std::size_t column) const {
        float* const values = reinterpret_cast<float*>(pages_.data());
        return values + (column / slice_ * rows_ + row) * stride_ + column % slice_;
    }
    std::size_t stride() const { return stride_; }
    std::size_t slice() const { return slice_; }
    // From a slice to the next.
    std::size_t apart() const { return rows_ * stride_; }

private:
    Pages pages_;
    std::size_t rows_ = 0, slice_ = kPanel, stride_ = 0;
};

// Rows quantised to int8, of one width at a time.
struct QuantizedRows {
    Pages codes;
    std::vector<RowCode> rows;
};

// Memory that is reused from call to call.
struct Workspace {
    // With pre-norm `hidden` are the sums and `normed` their norms, otherwise `hidden` are the norms.
    Buffer<float> hidden, normed, added, context, intermediate;
    Slices projections;
    Buffer<float> pooled, pooled_normed, pooled_queries;  // of the tokens that are pooled
    QuantizedRows codes, pooled_codes;
    Buffer<float> scratch;  // one row per thread
    Phases phases;
};

// Runs batches through the network on up to `threads` threads of the pool, which has as many. There is a workspace for
// each.
void forward(const Network& network, const Reduction& reduction, const Passes& passes, ThreadPool& pool,
             std::size_t threads, std::deque<Workspace>& workspaces);

}  // namespace care
