#include "forward.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>

#include "../scan/arithmetic.hpp"
#include "care/codes.hpp"

namespace care {
namespace {

// Of a layer: products, apart from that of pooled queries, and the most phases.
constexpr std::size_t kProducts = 4, kMostPhases = 10;
// Rows are claimed some at a time: this many at least, and otherwise about so many times by each thread.
constexpr std::size_t kRowsPerClaim = 4, kClaims = 4;

// A matrix as an operand of products: in float32, or quantised to int8.
class Operand {
public:
    Operand(const Network& network, const Buffer<float>& floats, std::size_t width, std::size_t rows,
            QuantizedRows& codes)
        : kernel_(*network.kernel), quantized_(network.precision == Precision::kInt8), floats_(&floats),
          codes_(&codes), width_(width), stride_(rounded_to(width, kPanel) + kPanel), rows_(rows) {
        if (!quantized_) return;
        if (rows * stride_ > codes.codes.size()) codes.codes = Pages(rows * stride_);
        if (rows > codes.rows.size()) codes.rows.resize(rows);
    }

    bool quantized() const { return quantized_; }
    std::size_t count() const { return rows_; }

    void quantize(std::size_t row) const {
        if (!quantized_) return;
        kernel_.quantize(floats_->row(row), width_,
                         reinterpret_cast<std::int8_t*>(codes_->codes.data()) + row * stride_, &codes_->rows[row]);
    }

    Rows rows() const {
        if (!quantized_) {
            return {reinterpret_cast<const std::byte*>(floats_->row(0)), floats_->stride() * sizeof(float), nullptr,
                    rows_};
        }
        return {codes_->codes.data(), stride_, codes_->rows.data(), rows_};
    }

private:
    const EncoderKernel& kernel_;
    bool quantized_;
    const Buffer<float>* floats_;
    QuantizedRows* codes_;
    std::size_t width_, stride_, rows_;
};

// A matrix product, whose panels of weights are claimed by threads.
struct Product {
    PackedMap map;
    Rows rows;
    float* to;
    std::size_t stride;
    Multiply* multiply;
    std::size_t panel_width = kPanel;  // outputs of a panel
    // Columns of a slice, and from a slice to the next: Slices. A Buffer is one slice.
    std::size_t slice = ~std::size_t{0}, slices_apart = 0;

    float* place(std::size_t panel) const {
        const std::size_t at = panel * panel_width;
        return to + at / slice * slices_apart + at % slice;
    }
};

class Forward {
public:
    Forward(const Network& network, const Reduction& reduction, const Batch& batch, std::size_t threads,
            Workspace& space)
        : network_(network), shape_(network.shape), reduction_(reduction), batch_(batch), space_(space),
          threads_(threads), starts_(batch.texts + 1),
          all_{space.hidden, network.pre_norm() ? space.normed : space.hidden},
          pooled_{space.pooled, network.pre_norm() ? space.pooled_normed : space.pooled} {
        for (std::size_t t = 0; t < batch.texts; ++t) {
            starts_[t + 1] = starts_[t] + static_cast<std::size_t>(batch.lengths[t]);
            longest_ = std::max(longest_, static_cast<std::size_t>(batch.lengths[t]));
        }
        find_positions();
        reserve();
        plan();
    }

    // What is left of the pass, together with the other threads that are there. Once this returns, it is finished.
    void work(std::size_t worker) {
        const DefaultFloatEnvironment environment;
        Worker me{worker, 0, 0, space_.phases.claim(0)};
        const Operand embedded = operand(all_.normed, shape_.hidden, batch_.tokens);
        for_rows(me, batch_.tokens, [&](std::size_t row) { embed(row, embedded); });
        for (std::size_t l = 0; l < network_.layers.size(); ++l) run_layer(l, me);
        space_.phases.for_each(me.phase, batch_.texts, 1, [&](std::size_t text) { reduce(text); });
    }

private:
    struct Worker {
        std::size_t number;
        int phase;            // the next phase
        std::size_t product;  // the next product
        std::size_t panel;    // the claimed panel of it
    };

    // The rows of all tokens, or of the pooled ones: what is added to, and what is read. With post-norm it is the same.
    struct Stream {
        const Buffer<float>&sums, &normed;
    };

    bool pools_one_token() const { return reduction_.pooling != Pooling::kMean; }
    bool only_pooled_tokens(std::size_t layer) const {
        return pools_one_token() && layer + 1 == network_.layers.size();
    }

    void reserve() {
        const std::size_t inner = rounded_to(network_.inner(), kPanel), tokens = batch_.tokens;
        space_.hidden.reserve(tokens, shape_.hidden);
        if (network_.pre_norm()) {
            space_.normed.reserve(tokens, shape_.hidden);
            space_.pooled_normed.reserve(batch_.texts, shape_.hidden);
        }
        space_.added.reserve(tokens, shape_.hidden);
        space_.projections.reserve(tokens, inner + 2 * rounded_to(network_.key_value_inner(), kPanel),
                                   network_.head_slice());
        space_.context.reserve(tokens, inner);
        space_.intermediate.reserve(tokens, shape_.intermediate);
        space_.pooled.reserve(batch_.texts, shape_.hidden);
        space_.pooled_queries.reserve(batch_.texts, inner);
        space_.scratch.reserve(threads_, attention_scratch(longest_, shape_.head_size));
    }

    Operand operand(const Buffer<float>& floats, std::size_t width, std::size_t rows) {
        return {network_, floats, width, rows, space_.codes};
    }

    // The products of all layers, in order.
    void plan() {
        const EncoderKernel& kernel = *network_.kernel;
        const std::size_t which = static_cast<std::size_t>(network_.precision);
        const std::size_t inner = rounded_to(network_.inner(), kPanel), panels = inner / kPanel;
        const auto add = [&](Multiply* multiply, const PackedMap& map, const Operand& from, const Buffer<float>& to,
                             std::size_t panel_width = kPanel) {
            products_.push_back({map, from.rows(), to.row(0), to.stride(), multiply, panel_width});
        };
        Multiply* const multiply = kernel.multiply[which];
        const auto project = [&](const PackedMap& map, const Operand& from, std::size_t first) {
            const Slices& to = space_.projections;
            products_.push_back(
                {map, from.rows(), to.at(0, first), to.stride(), multiply, kPanel, to.slice(), to.apart()});
        };
        Multiply* const multiply_up = (shape_.gated ? kernel.multiply_gated : kernel.multiply_activated)[which][
            static_cast<std::size_t>(shape_.activation)];
        // Allocates the codes at their largest size first: growing moves them.
        for (const std::size_t width : {shape_.hidden, network_.inner(), shape_.intermediate}) {
            operand(space_.hidden, width, batch_.tokens);
        }
        for (std::size_t l = 0; l < network_.layers.size(); ++l) {
            const PackedLayer& layer = network_.layers[l];
            const bool pooled_only = only_pooled_tokens(l);
            const std::size_t rows = pooled_only ? batch_.texts : batch_.tokens;
            const Operand all = operand(all_.normed, shape_.hidden, batch_.tokens);
            if (pooled_only) {
                const Operand pooled(network_, pooled_.normed, shape_.hidden, rows, space_.pooled_codes);
                add(multiply, layer.query_key_value.map(0, panels), pooled, space_.pooled_queries);
                project(layer.query_key_value.from(panels), all, inner);
            } else {
                project(layer.query_key_value.map(), all, 0);
            }
            add(multiply, layer.output.map(), operand(space_.context, network_.inner(), rows), space_.added);
            add(multiply_up, layer.up.map(), operand(stream(pooled_only).normed, shape_.hidden, rows),
                space_.intermediate, shape_.gated ? kPanel / 2 : kPanel);
            add(multiply, layer.down.map(), operand(space_.intermediate, shape_.intermediate, rows), space_.added);
        }
        space_.phases.restart(2 + kMostPhases * network_.layers.size(), products_.size());
    }

    // Rows, of which many take less time than a claim.
    template <typename Work>
    void for_rows(Worker& me, std::size_t count, const Work& work) {
        space_.phases.for_each(me.phase, count, std::max(kRowsPerClaim, count / (kClaims * threads_)), work);
    }

    // Claims the thread's next panel, in the next product if this one has none left, and returns what to prefetch for
    // it.
    Prefetch claim_next(Worker& me) {
        if (me.panel < products_[me.product].map.panel_count) me.panel = space_.phases.claim(me.product);
        if (me.panel >= products_[me.product].map.panel_count) {
            if (++me.product == products_.size()) return {nullptr, 0};
            me.panel = space_.phases.claim(me.product);
        }
        const PackedMap& map = products_[me.product].map;
        if (me.panel >= map.panel_count) return {nullptr, 0};
        return {map.panel(me.panel), map.panel_bytes() / 64};
    }

    // Computes what is left of a product, and returns the number of panels.
    std::size_t multiply(Worker& me, std::size_t now) {
        const Product& product = products_[now];
        if (me.product < now) {  // a thread that comes late
            me.product = now;
            me.panel = space_.phases.claim(now);
        }
        std::size_t done = 0;
        while (me.product == now) {
            const std::size_t panel = me.panel;
            const Prefetch prefetch = claim_next(me);
            if (panel >= product.map.panel_count) break;
            product.multiply(product.map, panel, product.rows, prefetch, product.place(panel),
                             product.stride);
            ++done;
        }
        return done;
    }

    std::size_t panels(std::size_t product) const { return products_[product].map.panel_count; }

    // A phase for a product.
    void run_product(Worker& me, std::size_t which) {
        space_.phases.run(me.phase, panels(which), [&] { return multiply(me, which); });
    }

    void embed(std::size_t row, const Operand& embedded) {
        const std::size_t hidden = shape_.hidden;
        float* const to = space_.hidden.row(row);
        const std::size_t id = static_cast<std::size_t>(batch_.ids[row]);
        std::memcpy(to, network_.word_embeddings + id * hidden, hidden * sizeof(float));
        // Clears the padding: NaN left there by an earlier batch would reach the sums of this one.
        std::fill(to + hidden, to + space_.hidden.stride(), 0.0f);
        const std::size_t at = position_rows_.empty() ? 0 : position_rows_[row] * rounded_to(hidden, kPanel);
        norm_sum(all_, network_.added.empty() ? nullptr : network_.added.data() + at, network_.norm, embedded, row);
    }

    // Rows of the position table, by token.
    void find_positions() {
        if (!network_.positions.rows) return;
        position_rows_.reserve(batch_.tokens);
        for (std::size_t t = 0; t < batch_.texts; ++t) {
            std::size_t next = network_.positions.first;
            for (std::size_t row = starts_[t]; row < starts_[t + 1]; ++row) {
                const bool counts = batch_.ids[row] != network_.positions.uncounted;
                position_rows_.push_back(counts ? next++ : network_.positions.first - 1);
            }
        }
    }

    // Adds to the sums of a row, normalises it, and quantises that for the next product.
    void norm_sum(const Stream& rows, const float* more, const PaddedNorm& norm, const Operand& operand,
                  std::size_t row) {
        float* const sums = rows.sums.row(row);
        network_.kernel->add_norm(
            {shape_.norm, norm.weights.data(), norm.biases.data(), shape_.hidden, shape_.epsilon}, sums, more, sums,
            rows.normed.row(row));
        operand.quantize(row);
    }

    const Stream& stream(bool pooled_only) const { return pooled_only ? pooled_ : all_; }

    std::size_t pooled_position(std::size_t text) const {
        return reduction_.pooling == Pooling::kLast ? static_cast<std::size_t>(batch_.lengths[text]) - 1 : 0;
    }

    void run_layer(std::size_t l, Worker& me) {
        const PackedLayer& layer = network_.layers[l];
        const bool pooled_only = only_pooled_tokens(l);
        const std::size_t rows = pooled_only ? batch_.texts : batch_.tokens;
        const Stream& now = stream(pooled_only);
        std::size_t product = kProducts * l;
        if (pooled_only) {
            const Operand pooled(network_, now.normed, shape_.hidden, rows, space_.pooled_codes);
            for_rows(me, rows, [&](std::size_t text) {
                const std::size_t from = starts_[text] + pooled_position(text);
                const std::size_t bytes = space_.pooled.stride() * sizeof(float);
                std::memcpy(now.sums.row(text), all_.sums.row(from), bytes);
                if (network_.pre_norm()) std::memcpy(now.normed.row(text), all_.normed.row(from), bytes);
                pooled.quantize(text);
            });
            const std::size_t queries = product++;
            space_.phases.run(me.phase, panels(queries) + panels(product),
                              [&] { return multiply(me, queries) + multiply(me, product); });
        } else {
            run_product(me, product);
        }
        ++product;
        space_.phases.for_each(me.phase, batch_.texts * shape_.heads, 1, [&](std::size_t pair) {
            attend(layer, pair / shape_.heads, pair % shape_.heads, pooled_only, me.number);
        });
        quantize_rows(space_.context, network_.inner(), rows, me);
        run_product(me, product++);
        const Operand normed = operand(now.normed, shape_.hidden, rows);
        const auto add = [&](const PaddedNorm& norm) {
            for_rows(me, rows, [&](std::size_t row) { norm_sum(now, space_.added.row(row), norm, normed, row); });
        };
        add(layer.attention_norm);
        run_product(me, product++);
        quantize_rows(space_.intermediate, shape_.intermediate, rows, me);
        run_product(me, product);
        add(layer.feed_forward_norm);
    }

    void quantize_rows(const Buffer<float>& floats, std::size_t width, std::size_t rows, Worker& me) {
        const Operand matrix = operand(floats, width, rows);
        if (matrix.quantized()) for_rows(me, rows, [&](std::size_t row) { matrix.quantize(row); });
    }

    void attend(const PackedLayer& layer, std::size_t text, std::size_t head, bool pooled_only, std::size_t worker) {
        const std::size_t inner = rounded_to(network_.inner(), kPanel), at = head * shape_.head_size;
        const std::size_t row = starts_[text], tokens = static_cast<std::size_t>(batch_.lengths[text]);
        const std::size_t shared = head / (shape_.heads / shape_.key_value_heads) * shape_.head_size;
        const Slices& projections = space_.projections;
        const Buffer<float>& pooled = space_.pooled_queries;
        const std::size_t values = inner + rounded_to(network_.key_value_inner(), kPanel);
        network_.kernel->attend[static_cast<std::size_t>(network_.precision)]({.causal = shape_.causal,
                                 .queries = pooled_only ? pooled.row(text) + at : projections.at(row, at),
                                 .query_stride = pooled_only ? pooled.stride() : projections.stride(),
                                 .query_count = pooled_only ? 1 : tokens,
                                 .first_position = pooled_only ? pooled_position(text) : 0,
                                 .keys = projections.at(row, inner + shared),
                                 .values = projections.at(row, values + shared),
                                 .stride = projections.stride(),
                                 .tokens = tokens,
                                 .cosines = network_.cosines.empty() ? nullptr : network_.cosines.data(),
                                 .sines = network_.sines.data(),
                                 .query_norm = layer.query_norm.given(),
                                 .key_norm = layer.key_norm.given(),
                                 .epsilon = shape_.epsilon,
                                 .head_size = shape_.head_size,
                                 .scaling = 1 / std::sqrt(static_cast<float>(shape_.head_size)),
                                 .scratch = space_.scratch.row(worker),
                                 .to = space_.context.row(pooled_only ? text : row) + at,
                                 .to_stride = space_.context.stride()});
    }

    // As care_accel/kernels/reference.py, with sums in float64.
    void reduce(std::size_t text) {
        const std::size_t tokens = static_cast<std::size_t>(batch_.lengths[text]), hidden = shape_.hidden;
        float* const pooled = pooled_.normed.row(text);
        if (!pools_one_token()) {
            for (std::size_t j = 0; j < hidden; ++j) {
                double sum = 0;
                for (std::size_t t = 0; t < tokens; ++t) sum += double{all_.normed.row(starts_[text] + t)[j]};
                pooled[j] = static_cast<float>(sum / static_cast<double>(tokens));
            }
        }
        double squares = 0;
        const std::size_t measured = reduction_.normalize_first ? hidden : reduction_.width;
        for (std::size_t j = 0; j < measured; ++j) squares += double{pooled[j]} * double{pooled[j]};
        const double norm = std::max(std::sqrt(squares), 1e-12);
        float* const to = batch_.vectors + text * reduction_.width;
        for (std::size_t j = 0; j < reduction_.width; ++j) to[j] = static_cast<float>(double{pooled[j]} / norm);
    }

    const Network& network_;
    const Shape& shape_;
    const Reduction& reduction_;
    const Batch& batch_;
    Workspace& space_;
    const std::size_t threads_;
    std::vector<std::size_t> starts_;
    std::size_t longest_ = 0;
    const Stream all_, pooled_;
    std::vector<std::size_t> position_rows_;
    std::vector<Product> products_;
};

}  // namespace

void forward(const Network& network, const Reduction& reduction, const Passes& passes, ThreadPool& pool,
             std::size_t threads, std::deque<Workspace>& workspaces) {
    if (!passes.alone.empty()) {
        std::atomic<std::size_t> next{0};
        std::vector<std::exception_ptr> failures(threads);
        pool.run(threads, [&](std::size_t worker) {
            try {
                for (std::size_t i = next++; i < passes.alone.size(); i = next++) {
                    Forward(network, reduction, passes.alone[i], 1, workspaces[worker]).work(0);
                }
            } catch (...) {
                failures[worker] = std::current_exception();  // no memory
            }
        });
        for (const std::exception_ptr& failure : failures) {
            if (failure) std::rethrow_exception(failure);
        }
    }
    for (const Batch& batch : passes.together) {
        Forward pass(network, reduction, batch, threads, workspaces[0]);
        pool.run(threads, [&](std::size_t worker) { pass.work(worker); });
    }
}

}  // namespace care
