// The encoder against a plain implementation in float64, under sanitizers. Built and run by tests/test_native.py.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string_view>
#include <thread>
#include <vector>

#include "care/encoder.hpp"
#include "care/scan.hpp"
#include "unchecked.hpp"

namespace {

using Doubles = std::vector<double>;
using Floats = std::vector<float>;

// What a network adds to word embeddings, and how it tells positions apart.
enum class Positions { kRotary, kTable, kTableAfterPadding, kNone };

struct Case {
    care::Shape shape;
    std::size_t layers;
    bool type;
    Positions positions;
    care::Pooling pooling;
    bool normalize_first;
    std::size_t width;
    std::vector<std::int64_t> lengths;
};

// A network with random weights. Every array is exactly as long as the interface requires, so that a sanitizer detects
// a read beyond it.
class Network {
public:
    Network(const care::Shape& shape, std::size_t layers, bool type, Positions positions) : shape_(shape) {
        const std::size_t hidden = shape.hidden, inner = shape.heads * shape.head_size, wide = shape.intermediate;
        const std::size_t shared = shape.key_value_heads * shape.head_size;
        const bool rotary = positions == Positions::kRotary, rms = shape.norm == care::NormKind::kRms;
        embedding = {.word_embeddings = some(shape.vocabulary * hidden, 1),
                     .positions = {},
                     .token_type = type ? some(hidden, 1) : nullptr,
                     .norm = norm(hidden),
                     .cosines = rotary ? some(shape.positions * shape.head_size, 1) : nullptr,
                     .sines = rotary ? some(shape.positions * shape.head_size, 1) : nullptr};
        if (positions == Positions::kTable) embedding.positions = {some(shape.positions * hidden, 1), 0, -1};
        if (positions == Positions::kTableAfterPadding) {
            embedding.positions = {some((shape.positions + 3) * hidden, 1), 3, 2};
        }
        for (std::size_t l = 0; l < layers; ++l) {
            const care::Norm none{nullptr, nullptr}, head{some(shape.head_size, 0.1f, 1), nullptr};
            all.push_back({.query = map(inner, hidden),
                           .key = map(shared, hidden),
                           .value = map(shared, hidden),
                           .output = map(hidden, inner, !rms),
                           .query_norm = rms ? head : none,
                           .key_norm = rms ? head : none,
                           .attention_norm = norm(hidden),
                           .gate = shape.gated ? map(wide, hidden, false) : care::Linear{},
                           .up = map(wide, hidden, !shape.gated),
                           .down = map(hidden, wide),
                           .feed_forward_norm = norm(hidden)});
        }
    }

    care::Embedding embedding{};
    std::vector<care::Layer> all;

    // The vector of one text, in float64.
    Doubles encode(const std::int64_t* ids, std::size_t tokens, const care::Reduction& reduction) const {
        const std::size_t hidden = shape_.hidden;
        std::vector<Doubles> sums(tokens, Doubles(hidden)), rows;
        std::size_t next = embedding.positions.first;
        for (std::size_t t = 0; t < tokens; ++t) {
            const std::size_t at = ids[t] == embedding.positions.uncounted ? embedding.positions.first - 1 : next++;
            for (std::size_t j = 0; j < hidden; ++j) {
                sums[t][j] = double{embedding.word_embeddings[static_cast<std::size_t>(ids[t]) * hidden + j]};
                if (embedding.token_type) sums[t][j] += double{embedding.token_type[j]};
                if (embedding.positions.rows) sums[t][j] += double{embedding.positions.rows[at * hidden + j]};
            }
        }
        rows = sums;
        for (std::size_t t = 0; t < tokens; ++t) add(sums[t], rows[t], Doubles(hidden), embedding.norm);
        for (const care::Layer& layer : all) run(layer, sums, rows);
        Doubles pooled(hidden);
        for (std::size_t j = 0; j < hidden; ++j) {
            for (const Doubles& row : rows) pooled[j] += row[j] / static_cast<double>(tokens);
        }
        if (reduction.pooling == care::Pooling::kFirst) pooled = rows.front();
        if (reduction.pooling == care::Pooling::kLast) pooled = rows.back();
        if (!reduction.normalize_first) pooled.resize(reduction.width);
        double squares = 0;
        for (const double value : pooled) squares += value * value;
        pooled.resize(reduction.width);
        for (double& value : pooled) value /= std::sqrt(squares);
        return pooled;
    }

private:
    const float* some(std::size_t count, float size, float around = 0) {
        Floats& values = kept_.emplace_back(count);
        std::normal_distribution<float> normal(around, size);
        for (float& value : values) value = normal(random_);
        return values.data();
    }
    care::Norm norm(std::size_t width) {
        return {some(width, 0.1f, 1), shape_.norm == care::NormKind::kRms ? nullptr : some(width, 0.1f)};
    }
    care::Linear map(std::size_t outputs, std::size_t inputs, bool bias = true) {
        const float size = 1 / std::sqrt(static_cast<float>(inputs));
        return {some(outputs * inputs, size), bias ? some(outputs, 0.1f) : nullptr, outputs, inputs};
    }

    void normalize(Doubles& row, const care::Norm& norm, bool rms) const {
        const double width = static_cast<double>(row.size());
        double mean = 0, variance = 0;
        for (const double value : row) mean += rms ? 0 : value / width;
        for (const double value : row) variance += (value - mean) * (value - mean) / width;
        for (std::size_t j = 0; j < row.size(); ++j) {
            const double apart = (row[j] - mean) / std::sqrt(variance + double{shape_.epsilon});
            row[j] = apart * double{norm.weights[j]} + (norm.bias ? double{norm.bias[j]} : 0.0);
        }
    }

    double activated(double x) const {
        switch (shape_.activation) {
            case care::Activation::kGelu: return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
            case care::Activation::kGeluTanh:
                return 0.5 * x * (1 + std::tanh(std::sqrt(2 / 3.14159265358979324) * (x + 0.044715 * x * x * x)));
            case care::Activation::kRelu: return std::max(x, 0.0);
            case care::Activation::kSilu: return x / (1 + std::exp(-x));
        }
        return 0;
    }

    static Doubles apply(const care::Linear& map, const Doubles& row) {
        Doubles found(map.outputs);
        for (std::size_t o = 0; o < map.outputs; ++o) {
            found[o] = (map.bias ? double{map.bias[o]} : 0.0) +
                       product(map.weights + o * map.inputs, row.data(), map.inputs);
        }
        return found;
    }

    template <typename Value>
    CARE_UNCHECKED static double product(const Value* a, const double* b, std::size_t count) {
        double sum = 0;
        for (std::size_t i = 0; i < count; ++i) sum += double{a[i]} * b[i];
        return sum;
    }
    // sum += factor * value
    CARE_UNCHECKED static void add_multiple(double* sum, double factor, const double* value, std::size_t count) {
        for (std::size_t i = 0; i < count; ++i) sum[i] += factor * value[i];
    }

    // Normalises each head, and rotates it.
    void prepare(Doubles& row, const care::Norm& norm, std::size_t position) const {
        const std::size_t size = shape_.head_size, half = size / 2;
        for (std::size_t at = 0; at < row.size(); at += size) {
            if (norm.weights) {
                Doubles head(&row[at], &row[at] + size);
                normalize(head, norm, true);
                std::copy(head.begin(), head.end(), &row[at]);
            }
            for (std::size_t i = 0; embedding.cosines && i < half; ++i) {
                const float* const c = embedding.cosines + position * size + i;
                const float* const s = embedding.sines + position * size + i;
                const double low = row[at + i], high = row[at + i + half];
                row[at + i] = low * double{c[0]} - high * double{s[0]};
                row[at + i + half] = high * double{c[half]} + low * double{s[half]};
            }
        }
    }

    void run(const care::Layer& layer, std::vector<Doubles>& sums, std::vector<Doubles>& rows) const {
        std::vector<Doubles> q, k, v;
        for (std::size_t t = 0; t < rows.size(); ++t) {
            q.push_back(apply(layer.query, rows[t]));
            k.push_back(apply(layer.key, rows[t]));
            v.push_back(apply(layer.value, rows[t]));
            prepare(q.back(), layer.query_norm, t);
            prepare(k.back(), layer.key_norm, t);
        }
        const std::size_t size = shape_.head_size, group = shape_.heads / shape_.key_value_heads;
        for (std::size_t t = 0; t < rows.size(); ++t) {
            const std::size_t seen = shape_.causal ? t + 1 : rows.size();
            Doubles mixed(shape_.heads * size);
            for (std::size_t head = 0; head < shape_.heads; ++head) {
                const std::size_t at = head * size, shared = head / group * size;
                Doubles weights(seen);
                double sum = 0;
                for (std::size_t u = 0; u < seen; ++u) {
                    const double score = product(&q[t][at], &k[u][shared], size);
                    sum += weights[u] = std::exp(score / std::sqrt(static_cast<double>(size)));
                }
                for (std::size_t u = 0; u < seen; ++u) {
                    add_multiple(&mixed[at], weights[u] / sum, &v[u][shared], size);
                }
            }
            add(sums[t], rows[t], apply(layer.output, mixed), layer.attention_norm);
        }
        for (std::size_t t = 0; t < rows.size(); ++t) {
            const Doubles up = apply(layer.up, rows[t]), gate = shape_.gated ? apply(layer.gate, rows[t]) : up;
            Doubles inner(up.size());
            for (std::size_t j = 0; j < up.size(); ++j) inner[j] = activated(gate[j]) * (shape_.gated ? up[j] : 1);
            add(sums[t], rows[t], apply(layer.down, inner), layer.feed_forward_norm);
        }
    }

    void add(Doubles& sum, Doubles& row, const Doubles& more, const care::Norm& norm) const {
        for (std::size_t j = 0; j < sum.size(); ++j) sum[j] += more[j];
        row = sum;
        normalize(row, norm, shape_.norm == care::NormKind::kRms);
        if (shape_.place == care::NormPlace::kPost) sum = row;
    }

    care::Shape shape_;
    std::mt19937 random_{7};
    std::vector<Floats> kept_;
};

// A case, and what float64 makes of it.
struct Expected {
    explicit Expected(const Case& c)
        : network(c.shape, c.layers, c.type, c.positions), reduction{c.pooling, c.normalize_first, c.width} {
        std::mt19937 random(3);
        for (const std::int64_t length : c.lengths) {
            const std::size_t first = ids.size();
            for (std::int64_t i = 0; i < length; ++i) {
                ids.push_back(static_cast<std::int64_t>(random() % c.shape.vocabulary));
            }
            const Doubles vector = network.encode(ids.data() + first, ids.size() - first, reduction);
            vectors.insert(vectors.end(), vector.begin(), vector.end());
        }
    }

    Network network;
    care::Reduction reduction;
    std::vector<std::int64_t> ids;
    Doubles vectors;
};

bool holds(const Case& c, const Expected& expected, care::Precision precision, std::string_view instruction_set) {
    care::Encoder encoder(c.shape, expected.network.embedding, precision, instruction_set);
    for (const care::Layer& layer : expected.network.all) encoder.add_layer(layer);
    Floats together(expected.vectors.size()), shared(together.size()), alone(together.size());
    // On one thread, and on several that each have passes of their own if there are enough tokens.
    encoder.encode(expected.ids.data(), c.lengths.data(), c.lengths.size(), expected.reduction, 1, together.data());
    encoder.encode(expected.ids.data(), c.lengths.data(), c.lengths.size(), expected.reduction, 3, shared.data());

    // From two threads in parallel, one text at a time, on more threads than there may be cores.
    const auto encode_every_second = [&](std::size_t first) {
        const std::int64_t* from = expected.ids.data();
        for (std::size_t t = 0; t < c.lengths.size(); from += c.lengths[t++]) {
            if (t % 2 == first) {
                encoder.encode(from, &c.lengths[t], 1, expected.reduction, 3, alone.data() + t * c.width);
            }
        }
    };
    {
        const std::jthread other(encode_every_second, 1);
        encode_every_second(0);
    }

    double worst = 0;
    for (std::size_t i = 0; i < together.size(); ++i) {
        worst = std::max(worst, std::abs(double{together[i]} - expected.vectors[i]));
    }
    const bool int8 = precision == care::Precision::kInt8;
    // Absolute errors of unit vectors or shorter ones.
    const bool same = alone == together && shared == together;
    const bool good = worst < (int8 ? 0.05 : 2e-6) && same;
    if (!good) {
        std::printf("%.*s, hidden %zu, %s: errs by %.1e, %s alone and on threads\n",
                    static_cast<int>(instruction_set.size()), instruction_set.data(), c.shape.hidden,
                    int8 ? "int8" : "float32", worst, same ? "the same" : "another");
    }
    return good;
}

}  // namespace

int main() {
    using care::Pooling;
    using enum Positions;
    using enum care::NormKind;
    using enum care::NormPlace;
    using enum care::Activation;
    const Case kCases[] = {
        // As gte.
        {{50, 32, 4, 4, 8, 64, 40, 1e-12f}, 2, true, kRotary, Pooling::kFirst, true, 24, {5, 1, 40, 16, 17}},
        {{9, 36, 3, 3, 12, 50, 7, 1e-5f}, 3, false, kRotary, Pooling::kMean, false, 36, {1, 7, 2}},
        {{9, 34, 1, 1, 34, 1, 9, 1e-12f}, 1, true, kRotary, Pooling::kLast, false, 33, {9, 3}},
        // Large enough for three threads with a pass each.
        {{30, 160, 5, 5, 32, 700, 300, 1e-12f}, 2, true, kRotary, Pooling::kLast, true, 160, {150, 129, 3, 180}},
        // As BERT and RoBERTa.
        {{50, 36, 4, 4, 9, 50, 40, 1e-12f, kLayer, kPost, kGelu, false},
         2, true, kTable, Pooling::kMean, true, 24, {5, 1, 40, 16, 17}},
        // More tokens than are summed exactly.
        {{9, 48, 3, 3, 16, 20, 600, 1e-5f, kLayer, kPost, kRelu, false},
         1, false, kTable, Pooling::kMean, true, 48, {600, 513, 257, 256}},
        {{9, 33, 3, 3, 11, 66, 20, 1e-5f, kLayer, kPost, kGeluTanh, false},
         2, true, kTableAfterPadding, Pooling::kFirst, true, 33, {20, 3, 9}},
        {{9, 32, 1, 1, 32, 40, 9, 1e-5f, kLayer, kPost, kRelu, false},
         1, false, kNone, Pooling::kLast, true, 32, {9, 3}},
        // As qwen3.
        {{30, 40, 6, 2, 10, 70, 70, 1e-6f, kRms, kPre, kSilu, true, true},
         2, false, kRotary, Pooling::kLast, true, 40, {70, 1, 25, 33}},
        // Heads of one and a half panels, which lie together by fours.
        {{30, 40, 8, 4, 48, 70, 40, 1e-6f, kRms, kPre, kSilu, true, true},
         2, false, kRotary, Pooling::kMean, true, 40, {40, 1, 17}},
        {{30, 40, 4, 4, 16, 30, 30, 1e-6f, kRms, kPre, kSilu, false, true},
         3, false, kTable, Pooling::kMean, true, 40, {30, 2}},
    };
    std::size_t failures = 0, checks = 0;
    for (const Case& c : kCases) {
        const Expected expected(c);
        for (const std::string_view instruction_set : care::instruction_sets()) {
            for (const care::Precision precision : {care::Precision::kFloat32, care::Precision::kInt8}) {
                ++checks;
                failures += !holds(c, expected, precision, instruction_set);
            }
        }
    }
    std::printf("%zu checks, %zu failures\n", checks, failures);
    return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
