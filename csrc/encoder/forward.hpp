// A packed network, and one batch going through it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "care/encoder.hpp"
#include "kernel.hpp"
#include "packing.hpp"
#include "thread_pool.hpp"

namespace care {

struct PaddedNorm {
    PaddedNorm() = default;
    PaddedNorm(const Norm& norm, std::size_t width)
        : weights(padded(norm.weights, width)), biases(padded(norm.bias, width)) {}
    std::vector<float> weights, biases;
};

struct PackedLayer {
    Packed query_key_value, output, gate_up, down;
    PaddedNorm attention_norm, feed_forward_norm;
    std::size_t bytes() const { return query_key_value.bytes() + output.bytes() + gate_up.bytes() + down.bytes(); }
};

struct Network {
    GteShape shape;
    Precision precision;
    const EncoderKernel* kernel;
    const float* word_embeddings;
    std::vector<float> token_type;  // empty if there is none
    PaddedNorm norm;
    std::vector<float> cosines, sines;
    std::vector<PackedLayer> layers;

    std::size_t inner() const { return shape.heads * shape.head_size; }
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

// Rows quantised to int8, of one width at a time.
struct QuantizedRows {
    Pages codes;
    std::vector<float> scales;
    std::vector<std::int32_t> corrections;
};

// Memory that is reused from call to call.
struct Workspace {
    Buffer<float> hidden, added, projections, context, gated;
    Buffer<float> pooled, pooled_queries;  // of the tokens that are pooled
    QuantizedRows codes, pooled_codes;
    Buffer<float> scratch;  // one row per thread
    std::vector<std::atomic<std::uint32_t>> claims;
};

struct Batch {
    const std::int64_t* ids;
    const std::int64_t* lengths;
    std::size_t texts, tokens;
    float* vectors;
};

// Runs a batch through the network on at most `threads` threads of the pool.
void forward(const Network& network, const Reduction& reduction, const Batch& batch, ThreadPool& pool,
             std::size_t threads, Workspace& workspace);

}  // namespace care
