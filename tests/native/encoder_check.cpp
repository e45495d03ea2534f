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

namespace {

using Doubles = std::vector<double>;
using Floats = std::vector<float>;

struct Case {
    care::GteShape shape;
    std::size_t layers;
    bool type;
    care::Pooling pooling;
    bool normalize_first;
    std::size_t width;
    std::vector<std::int64_t> lengths;
};

// A network with random weights. Every array is exactly as long as the interface requires, so that a sanitizer detects
// a read beyond it.
class Network {
public:
    Network(const care::GteShape& shape, std::size_t layers, bool type) : shape_(shape) {
        const std::size_t hidden = shape.hidden, inner = shape.heads * shape.head_size, wide = shape.intermediate;
        embedding = {some(shape.vocabulary * hidden, 1), type ? some(hidden, 1) : nullptr, norm(hidden),
                     some(shape.positions * shape.head_size, 1), some(shape.positions * shape.head_size, 1)};
        for (std::size_t l = 0; l < layers; ++l) {
            all.push_back({map(inner, hidden), map(inner, hidden), map(inner, hidden), map(hidden, inner), norm(hidden),
                           map(wide, hidden, false), map(wide, hidden, false), map(hidden, wide), norm(hidden)});
        }
    }

    care::GteEmbedding embedding{};
    std::vector<care::GteLayer> all;

    // The vector of one text, in float64.
    Doubles encode(const std::int64_t* ids, std::size_t tokens, const care::Reduction& reduction) const {
        const std::size_t hidden = shape_.hidden;
        std::vector<Doubles> rows(tokens, Doubles(hidden));
        for (std::size_t t = 0; t < tokens; ++t) {
            for (std::size_t j = 0; j < hidden; ++j) {
                rows[t][j] = double{embedding.word_embeddings[static_cast<std::size_t>(ids[t]) * hidden + j]} +
                             (embedding.token_type ? double{embedding.token_type[j]} : 0.0);
            }
            normalize(rows[t], embedding.norm);
        }
        for (const care::GteLayer& layer : all) run(layer, rows);
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
    care::Norm norm(std::size_t width) { return {some(width, 0.1f, 1), some(width, 0.1f)}; }
    care::Linear map(std::size_t outputs, std::size_t inputs, bool bias = true) {
        const float size = 1 / std::sqrt(static_cast<float>(inputs));
        return {some(outputs * inputs, size), bias ? some(outputs, 0.1f) : nullptr, outputs, inputs};
    }

    void normalize(Doubles& row, const care::Norm& norm) const {
        const double width = static_cast<double>(row.size());
        double mean = 0, variance = 0;
        for (const double value : row) mean += value / width;
        for (const double value : row) variance += (value - mean) * (value - mean) / width;
        for (std::size_t j = 0; j < row.size(); ++j) {
            const double apart = (row[j] - mean) / std::sqrt(variance + double{shape_.epsilon});
            row[j] = apart * double{norm.weights[j]} + double{norm.bias[j]};
        }
    }

    static Doubles apply(const care::Linear& map, const Doubles& row) {
        Doubles found(map.outputs);
        for (std::size_t o = 0; o < map.outputs; ++o) {
            found[o] = map.bias ? double{map.bias[o]} : 0.0;
            for (std::size_t i = 0; i < map.inputs; ++i) found[o] += double{map.weights[o * map.inputs + i]} * row[i];
        }
        return found;
    }

    void rotate(Doubles& row, std::size_t position) const {
        const std::size_t size = shape_.head_size, half = size / 2;
        for (std::size_t at = 0; at < row.size(); at += size) {
            for (std::size_t i = 0; i < half; ++i) {
                const float* const c = embedding.cosines + position * size + i;
                const float* const s = embedding.sines + position * size + i;
                const double low = row[at + i], high = row[at + i + half];
                row[at + i] = low * double{c[0]} - high * double{s[0]};
                row[at + i + half] = high * double{c[half]} + low * double{s[half]};
            }
        }
    }

    void run(const care::GteLayer& layer, std::vector<Doubles>& rows) const {
        std::vector<Doubles> q, k, v;
        for (std::size_t t = 0; t < rows.size(); ++t) {
            q.push_back(apply(layer.query, rows[t]));
            k.push_back(apply(layer.key, rows[t]));
            v.push_back(apply(layer.value, rows[t]));
            rotate(q.back(), t);
            rotate(k.back(), t);
        }
        const std::size_t size = shape_.head_size;
        for (std::size_t t = 0; t < rows.size(); ++t) {
            Doubles mixed(shape_.heads * size);
            for (std::size_t at = 0; at < mixed.size(); at += size) {
                Doubles weights(rows.size());
                double sum = 0;
                for (std::size_t u = 0; u < rows.size(); ++u) {
                    for (std::size_t i = at; i < at + size; ++i) weights[u] += q[t][i] * k[u][i];
                    sum += weights[u] = std::exp(weights[u] / std::sqrt(static_cast<double>(size)));
                }
                for (std::size_t u = 0; u < rows.size(); ++u) {
                    for (std::size_t i = at; i < at + size; ++i) mixed[i] += weights[u] / sum * v[u][i];
                }
            }
            add(rows[t], apply(layer.output, mixed), layer.attention_norm);
        }
        for (Doubles& row : rows) {
            Doubles gated = apply(layer.gate, row);
            const Doubles up = apply(layer.up, row);
            for (std::size_t j = 0; j < gated.size(); ++j) {
                gated[j] *= 0.5 * std::erfc(-gated[j] / std::sqrt(2.0)) * up[j];
            }
            add(row, apply(layer.down, gated), layer.feed_forward_norm);
        }
    }

    void add(Doubles& row, const Doubles& more, const care::Norm& norm) const {
        for (std::size_t j = 0; j < row.size(); ++j) row[j] += more[j];
        normalize(row, norm);
    }

    care::GteShape shape_;
    std::mt19937 random_{7};
    std::vector<Floats> kept_;
};

// A case, and what float64 makes of it.
struct Expected {
    explicit Expected(const Case& c)
        : network(c.shape, c.layers, c.type), reduction{c.pooling, c.normalize_first, c.width} {
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
    care::GteEncoder encoder(c.shape, expected.network.embedding, precision, instruction_set);
    for (const care::GteLayer& layer : expected.network.all) encoder.add_layer(layer);
    Floats together(expected.vectors.size()), alone(together.size());
    encoder.encode(expected.ids.data(), c.lengths.data(), c.lengths.size(), expected.reduction, 1, together.data());

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
    const bool good = worst < (int8 ? 0.05 : 2e-6) && alone == together;
    if (!good) {
        std::printf("%.*s, hidden %zu, %s: errs by %.1e, %s alone\n", static_cast<int>(instruction_set.size()),
                    instruction_set.data(), c.shape.hidden, int8 ? "int8" : "float32", worst,
                    alone == together ? "the same" : "another");
    }
    return good;
}

}  // namespace

int main() {
    using care::Pooling;
    const Case kCases[] = {
        {{50, 32, 4, 8, 64, 40, 1e-12f}, 2, true, Pooling::kFirst, true, 24, {5, 1, 40, 16, 17}},
        {{9, 36, 3, 12, 50, 7, 1e-5f}, 3, false, Pooling::kMean, false, 36, {1, 7, 2}},
        {{9, 34, 1, 34, 1, 9, 1e-12f}, 1, true, Pooling::kLast, false, 33, {9, 3}},
        // Large enough for several threads, with more tokens than one forward pass has.
        {{30, 160, 5, 32, 700, 300, 1e-12f}, 2, true, Pooling::kLast, true, 160, {299, 250, 3}},
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
