// care_accel._native.Encoder: receives the description of a network, and the weights as arrays, layer by layer.
#include "care/encoder.hpp"

#include <pybind11/stl.h>

#include <optional>
#include <vector>

#include "shapes.hpp"

void bind_encoder(py::module_& module);

namespace {

using Weights = std::pair<Array<float>, std::optional<Array<float>>>;

std::size_t extent(const Array<float>& array, py::ssize_t axis) { return static_cast<std::size_t>(array.shape(axis)); }

const float* values(const Array<float>& array, std::size_t count) {
    require(array.ndim() == 1 && extent(array, 0) == count,
            "the length of a bias or norm is not the number of outputs");
    return array.data();
}

const float* values(const std::optional<Array<float>>& array, std::size_t count) {
    return array ? values(*array, count) : nullptr;
}

care::Linear linear(const Weights& map) {
    const auto& [weights, bias] = map;
    require(weights.ndim() == 2, "weights must be [outputs, inputs]");
    const std::size_t outputs = extent(weights, 0);
    return {weights.data(), values(bias, outputs), outputs, extent(weights, 1)};
}

care::Norm norm(const Weights& both, std::size_t width) {
    return {values(both.first, width), values(both.second, width)};
}

// The place of a name in a list: the value of an enumeration.
template <typename Value>
Value named(const std::string& name, std::initializer_list<const char*> names, const char* otherwise) {
    int place = 0;
    for (const char* const known : names) {
        if (name == known) return static_cast<Value>(place);
        ++place;
    }
    throw std::invalid_argument(otherwise);
}

// Appends the integers of a list, and returns their number.
std::int64_t append(const py::handle list, std::vector<std::int64_t>& to) {
    const auto values = py::reinterpret_steal<py::object>(PySequence_Fast(list.ptr(), "a text must be a list of ids"));
    if (!values) throw py::error_already_set();
    PyObject* const* const items = PySequence_Fast_ITEMS(values.ptr());
    const Py_ssize_t count = PySequence_Fast_GET_SIZE(values.ptr());
    for (Py_ssize_t i = 0; i < count; ++i) {
        const std::int64_t value = PyLong_AsLongLong(items[i]);
        if (value == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
        to.push_back(value);
    }
    return count;
}

class Encoder {
public:
    Encoder(Array<float> word_embeddings, const std::optional<Array<float>>& position_embeddings,
            std::size_t first_position, std::int64_t uncounted, const std::optional<Array<float>>& token_type,
            const Weights& embedding_norm, const std::optional<std::pair<Array<float>, Array<float>>>& rotary,
            std::size_t positions, std::size_t heads, std::size_t key_value_heads, std::size_t head_size,
            std::size_t intermediate, float epsilon, const std::string& norm_kind, const std::string& norm_place,
            const std::string& activation, bool gated, bool causal, bool int8, const std::string& instruction_set)
        : word_embeddings_(std::move(word_embeddings)) {
        require(word_embeddings_.ndim() == 2, "word_embeddings must be [vocabulary, hidden]");
        const std::size_t hidden = extent(word_embeddings_, 1);
        const care::Shape shape{
            .vocabulary = extent(word_embeddings_, 0),
            .hidden = hidden,
            .heads = heads,
            .key_value_heads = key_value_heads,
            .head_size = head_size,
            .intermediate = intermediate,
            .positions = positions,
            .epsilon = epsilon,
            .norm = named<care::NormKind>(norm_kind, {"layer", "rms"}, "norm_kind must be layer or rms"),
            .place = named<care::NormPlace>(norm_place, {"post", "pre"}, "norm_place must be post or pre"),
            .activation = named<care::Activation>(activation, {"gelu", "gelu_tanh", "relu", "silu"},
                                                  "activation must be gelu, gelu_tanh, relu or silu"),
            .gated = gated,
            .causal = causal};
        if (position_embeddings) {
            require(position_embeddings->ndim() == 2 && extent(*position_embeddings, 1) == hidden &&
                        extent(*position_embeddings, 0) >= first_position + positions,
                    "position_embeddings must be [at least first_position + positions, hidden]");
        }
        if (rotary) {
            for (const Array<float>* angles : {&rotary->first, &rotary->second}) {
                require(angles->ndim() == 2 && extent(*angles, 0) == positions && extent(*angles, 1) == head_size,
                        "cosines and sines must be [positions, head size]");
            }
        }
        const care::Embedding embedding{
            .word_embeddings = word_embeddings_.data(),
            .positions = {position_embeddings ? position_embeddings->data() : nullptr, first_position, uncounted},
            .token_type = values(token_type, hidden),
            .norm = norm(embedding_norm, hidden),
            .cosines = rotary ? rotary->first.data() : nullptr,
            .sines = rotary ? rotary->second.data() : nullptr};
        encoder_.emplace(shape, embedding, int8 ? care::Precision::kInt8 : care::Precision::kFloat32, instruction_set);
    }

    void add_layer(const Weights& query, const Weights& key, const Weights& value, const Weights& output,
                   const Weights& attention_norm, const Weights& up, const Weights& down,
                   const Weights& feed_forward_norm, const std::optional<Weights>& gate,
                   const std::optional<Array<float>>& query_norm, const std::optional<Array<float>>& key_norm) {
        const care::Shape& shape = encoder_->shape();
        const care::Layer layer{
            .query = linear(query),
            .key = linear(key),
            .value = linear(value),
            .output = linear(output),
            .query_norm = {values(query_norm, shape.head_size), nullptr},
            .key_norm = {values(key_norm, shape.head_size), nullptr},
            .attention_norm = norm(attention_norm, shape.hidden),
            .gate = gate ? linear(*gate) : care::Linear{},
            .up = linear(up),
            .down = linear(down),
            .feed_forward_norm = norm(feed_forward_norm, shape.hidden)};
        py::gil_scoped_release release;
        encoder_->add_layer(layer);
    }

    Array<float> encode(const py::sequence& rows, const std::string& pooling, bool normalize_first, std::size_t width,
                        std::size_t threads) const {
        const care::Reduction reduction{
            named<care::Pooling>(pooling, {"first", "last", "mean"}, "pooling must be first, last or mean"),
            normalize_first, width};
        std::vector<std::int64_t> ids, lengths;
        lengths.reserve(rows.size());
        for (const py::handle row : rows) lengths.push_back(append(row, ids));
        Array<float> vectors({lengths.size(), width});
        float* const to = vectors.mutable_data();
        py::gil_scoped_release release;
        encoder_->encode(ids.data(), lengths.data(), lengths.size(), reduction, threads, to);
        return vectors;
    }

    std::size_t nbytes() const { return encoder_->packed_bytes(); }

private:
    Array<float> word_embeddings_;  // keeps the memory that the encoder reads
    std::optional<care::Encoder> encoder_;
};

}  // namespace

void bind_encoder(py::module_& module) {
    using namespace py::literals;
    // Arrays are never converted: a copy would not live as long as the encoder, or would hide what it costs.
    py::class_<Encoder>(module, "Encoder", "A transformer network; see csrc/include/care/encoder.hpp.")
        .def(py::init<Array<float>, const std::optional<Array<float>>&, std::size_t, std::int64_t,
                      const std::optional<Array<float>>&, const Weights&,
                      const std::optional<std::pair<Array<float>, Array<float>>>&, std::size_t, std::size_t,
                      std::size_t, std::size_t, std::size_t, float, const std::string&, const std::string&,
                      const std::string&, bool, bool, bool, const std::string&>(),
             "word_embeddings"_a.noconvert(), py::kw_only(), "position_embeddings"_a.noconvert() = py::none(),
             "first_position"_a = 0, "uncounted"_a = -1, "token_type"_a.noconvert() = py::none(),
             "norm"_a.noconvert(), "rotary"_a.noconvert() = py::none(), "positions"_a, "heads"_a, "key_value_heads"_a,
             "head_size"_a, "intermediate"_a, "epsilon"_a, "norm_kind"_a = "layer", "norm_place"_a = "post",
             "activation"_a, "gated"_a, "causal"_a = false, "int8"_a, "instruction_set"_a = "")
        .def("add_layer", &Encoder::add_layer, py::kw_only(), "query"_a.noconvert(), "key"_a.noconvert(),
             "value"_a.noconvert(), "output"_a.noconvert(), "attention_norm"_a.noconvert(), "up"_a.noconvert(),
             "down"_a.noconvert(), "feed_forward_norm"_a.noconvert(), "gate"_a.noconvert() = py::none(),
             "query_norm"_a.noconvert() = py::none(), "key_norm"_a.noconvert() = py::none(),
             "Pack copies of a layer's weights.")
        .def("encode", &Encoder::encode, "rows"_a, py::kw_only(), "pooling"_a, "normalize_first"_a, "width"_a,
             "threads"_a, "Return vectors [texts, width] of texts, each a list of ids.")
        .def_property_readonly("nbytes", &Encoder::nbytes, "Bytes of the packed weights.");
}
