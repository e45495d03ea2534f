#include "care/encoder.hpp"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "../scan/arithmetic.hpp"
#include "care/codes.hpp"
#include "forward.hpp"
#include "packing.hpp"
#include "../threads/thread_pool.hpp"

namespace care {
namespace {

// To wake a thread takes some 10 microseconds of the caller's time, and it comes after 30 to 80. So a second thread
// needs at least kLeastWork, some 100 microseconds, and each further one kWorkPerThread more. Work is counted in bytes
// of weights read, and as much again for every kRowsPerReading rows.
constexpr std::size_t kLeastWork = 3 * 1024 * 1024, kWorkPerThread = 8 * 1024 * 1024;
constexpr std::size_t kRowsPerReading = 16;

void require(bool holds, const char* otherwise) {
    if (!holds) throw std::invalid_argument(otherwise);
}

void require_shape(const Linear& map, std::size_t outputs, std::size_t inputs) {
    require(map.weights && map.outputs == outputs && map.inputs == inputs,
            "the shape of a linear map does not fit the network");
}

}  // namespace

// State of one process: threads do not survive fork().
struct Session {
    explicit Session(pid_t process) : process(process), pool(std::make_unique<ThreadPool>(1)) {}
    const pid_t process;
    std::mutex turn;
    std::unique_ptr<ThreadPool> pool;
    std::deque<Workspace> workspaces;  // by thread
};

struct Encoder::State {
    Network network;
    std::atomic<Session*> session{nullptr};

    // The session of this process. A parent's session is never touched: its lock may be held for ever, and its threads
    // do not exist here.
    Session& current() {
        const pid_t process = getpid();
        Session* found = session.load(std::memory_order_acquire);
        while (!found || found->process != process) {
            auto fresh = std::make_unique<Session>(process);
            if (session.compare_exchange_strong(found, fresh.get(), std::memory_order_acq_rel)) {
                return *fresh.release();
            }
        }
        return *found;
    }

    ~State() {
        Session* const last = session.load(std::memory_order_acquire);
        if (last && last->process == getpid()) delete last;
    }
};

Encoder::Encoder(const Shape& shape, const Embedding& embedding, Precision precision, std::string_view instruction_set)
    : state_(std::make_unique<State>()) {
    require(shape.hidden >= 1 && shape.hidden <= kMaxWidth && shape.heads >= 1 && shape.head_size >= 1 &&
                shape.heads * shape.head_size <= kMaxWidth && shape.intermediate >= 1 &&
                shape.intermediate <= kMaxWidth && shape.vocabulary >= 1 && shape.positions >= 1,
            "a size of the network is out of range");
    require(shape.key_value_heads >= 1 && shape.heads % shape.key_value_heads == 0,
            "the number of key and value heads must divide that of query heads");
    require(!embedding.cosines || shape.head_size % 2 == 0, "a rotary position embedding needs an even head size");
    require(embedding.positions.uncounted < 0 || embedding.positions.first >= 1,
            "an id that is not counted needs a row before the first position");
    require(embedding.norm.weights != nullptr, "the embedding needs a norm");
    Network& network = state_->network;
    network.shape = shape;
    network.precision = precision;
    network.kernel = &encoder_kernel(instruction_set);
    network.word_embeddings = embedding.word_embeddings;
    network.norm = PaddedNorm(embedding.norm, shape.hidden);
    const std::size_t stride = rounded_to(shape.hidden, kPanel);
    const std::size_t rows = embedding.positions.rows ? embedding.positions.first + shape.positions
                                                      : embedding.token_type != nullptr;
    network.added.resize(rows * stride);
    for (std::size_t row = 0; row < rows; ++row) {
        for (std::size_t j = 0; j < shape.hidden; ++j) {
            network.added[row * stride + j] =
                (embedding.positions.rows ? embedding.positions.rows[row * shape.hidden + j] : 0) +
                (embedding.token_type ? embedding.token_type[j] : 0);
        }
    }
    network.positions = embedding.positions;
    if (embedding.positions.rows) network.positions.rows = network.added.data();
    if (embedding.cosines) {
        const std::size_t angles = shape.positions * shape.head_size;
        network.cosines.assign(embedding.cosines, embedding.cosines + angles);
        network.sines.assign(embedding.sines, embedding.sines + angles);
    }
}

Encoder::~Encoder() = default;

void Encoder::add_layer(const Layer& layer) {
    Network& network = state_->network;
    const Shape& shape = network.shape;
    const std::size_t hidden = shape.hidden, inner = network.inner(), key_value_inner = network.key_value_inner();
    require_shape(layer.query, inner, hidden);
    for (const Linear* map : {&layer.key, &layer.value}) require_shape(*map, key_value_inner, hidden);
    require_shape(layer.output, hidden, inner);
    if (shape.gated) require_shape(layer.gate, shape.intermediate, hidden);
    require(shape.gated || !layer.gate.weights, "a gate was given to a network without gates");
    require_shape(layer.up, shape.intermediate, hidden);
    require_shape(layer.down, hidden, shape.intermediate);
    require(layer.attention_norm.weights && layer.feed_forward_norm.weights, "a layer needs two norms");
    const Precision precision = network.precision;
    network.layers.push_back({Packed::of({layer.query, layer.key, layer.value}, precision),
                              Packed::of({layer.output}, precision),
                              shape.gated ? Packed::of_gated(layer.gate, layer.up, precision)
                                          : Packed::of({layer.up}, precision),
                              Packed::of({layer.down}, precision),
                              PaddedNorm(layer.query_norm, shape.head_size),
                              PaddedNorm(layer.key_norm, shape.head_size),
                              PaddedNorm(layer.attention_norm, hidden),
                              PaddedNorm(layer.feed_forward_norm, hidden)});
}

void Encoder::encode(const std::int64_t* ids, const std::int64_t* lengths, std::size_t texts,
                        const Reduction& reduction, std::size_t threads, float* vectors) const {
    const Network& network = state_->network;
    require(!network.layers.empty(), "the encoder has no layers yet");
    require(reduction.width >= 1 && reduction.width <= network.shape.hidden, "width must be 1 to the hidden size");
    std::size_t tokens = 0;
    for (std::size_t t = 0; t < texts; ++t) {
        require(lengths[t] >= 1 && static_cast<std::size_t>(lengths[t]) <= network.shape.positions,
                "a text has no tokens, or more than the network has positions");
        tokens += static_cast<std::size_t>(lengths[t]);
    }
    const auto known = [&](std::int64_t id) {
        return id >= 0 && static_cast<std::size_t>(id) < network.shape.vocabulary;
    };
    require(std::all_of(ids, ids + tokens, known), "an id is not in the vocabulary");

    Session& session = state_->current();
    const std::lock_guard turn(session.turn);
    const std::size_t work = network.bytes() * (kRowsPerReading + tokens) / kRowsPerReading;
    const std::size_t worth = (work + 2 * kWorkPerThread - kLeastWork) / kWorkPerThread;
    const std::size_t wanted = std::clamp<std::size_t>(worth, 1, std::max<std::size_t>(1, threads));
    if (wanted > session.pool->size()) session.pool = std::make_unique<ThreadPool>(wanted);
    const std::size_t found = std::min(wanted, session.pool->size());
    if (found > session.workspaces.size()) session.workspaces.resize(found);
    const Passes passes = divide({ids, lengths, texts, tokens, vectors}, reduction.width, found);
    forward(network, reduction, passes, *session.pool, found, session.workspaces);
}

const Shape& Encoder::shape() const { return state_->network.shape; }
std::size_t Encoder::layers() const { return state_->network.layers.size(); }
std::size_t Encoder::packed_bytes() const { return state_->network.bytes(); }

}  // namespace care
