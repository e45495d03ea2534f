// care_accel._native.GteEncoder: receives the weights as arrays, layer by layer.
#include "care/encoder.hpp"

#include <pybind11/stl.h>

#include <optional>

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

care::Linear linear(const Weights& map) {
    const auto& [weights, bias] = map;
    require(weights.ndim() == 2, "weights must be [outputs, inputs]");
    const std::size_t outputs = extent(weights, 0);
    return {weights.data(), bias ? values(*bias, outputs) : nullptr, outputs, extent(weights, 1)};
}

care::Norm norm(const std::pair<Array<float>, Array<float>>& both, std::size_t width) {
    return {values(both.first, width), values(both.second, width)};
}

class Encoder {
public:
    Encoder(Array<float> word_embeddings, const std::optional<Array<float>>& token_type,
            const std::pair<Array<float>, Array<float>>& embedding_norm, const Array<float>& cosines,
            const Array<float>& sines, std::size_t heads, std::size_t intermediate, float epsilon, bool int8,
            const std::string& instruction_set)
        : word_embeddings_(std::move(word_embeddings)) {
        require(word_embeddings_.ndim() == 2, "word_embeddings must be [vocabulary, hidden]");
        require(cosines.ndim() == 2 && sines.ndim() == 2 && extent(cosines, 0) == extent(sines, 0) &&
                    extent(cosines, 1) == extent(sines, 1),
                "cosines and sines must be [positions, head size]");
        const std::size_t hidden = extent(word_embeddings_, 1);
        const care::GteShape shape{extent(word_embeddings_, 0), hidden, heads, extent(cosines, 1),
                                   intermediate, extent(cosines, 0), epsilon};
        const care::GteEmbedding embedding{word_embeddings_.data(),
                                           token_type ? values(*token_type, hidden) : nullptr,
                                           norm(embedding_norm, hidden), cosines.data(), sines.data()};
        encoder_.emplace(shape, embedding, int8 ? care::Precision::kInt8 : care::Precision::kFloat32, instruction_set);
    }

    void add_layer(const Weights& query, const Weights& key, const Weights& value, const Weights& output,
                   const std::pair<Array<float>, Array<float>>& attention_norm, const Weights& gate, const Weights& up,
                   const Weights& down, const std::pair<Array<float>, Array<float>>& feed_forward_norm) {
        const std::size_t hidden = encoder_->shape().hidden;
        const care::GteLayer layer{linear(query), linear(key), linear(value), linear(output),
                                   norm(attention_norm, hidden),
                                   linear(gate), linear(up), linear(down),
                                   norm(feed_forward_norm, hidden)};
        py::gil_scoped_release release;
        encoder_->add_layer(layer);
    }

    Array<float> encode(const Array<std::int64_t>& ids, const Array<std::int64_t>& lengths, const std::string& pooling,
                        bool normalize_first, std::size_t width, std::size_t threads) const {
        require(ids.ndim() == 1 && lengths.ndim() == 1, "ids and lengths must have one dimension");
        require(pooling == "first" || pooling == "last" || pooling == "mean", "pooling must be first, last or mean");
        std::int64_t total = 0;
        const std::int64_t* const tokens = lengths.data();
        for (py::ssize_t t = 0; t < lengths.shape(0); ++t) {
            require(tokens[t] >= 1 && tokens[t] <= ids.shape(0), "lengths must be 1 to the number of ids");
            total += tokens[t];
        }
        require(total == ids.shape(0), "lengths must add up to the number of ids");
        const care::Reduction reduction{pooling == "first"  ? care::Pooling::kFirst
                                        : pooling == "last" ? care::Pooling::kLast
                                                            : care::Pooling::kMean,
                                        normalize_first, width};
        const std::size_t texts = static_cast<std::size_t>(lengths.shape(0));
        Array<float> vectors({texts, width});
        float* const to = vectors.mutable_data();
        const std::int64_t* const first = ids.data();
        py::gil_scoped_release release;
        encoder_->encode(first, tokens, texts, reduction, threads, to);
        return vectors;
    }

    std::size_t nbytes() const { return encoder_->packed_bytes(); }

private:
    Array<float> word_embeddings_;  // keeps the memory that the encoder reads
    std::optional<care::GteEncoder> encoder_;
};

}  // namespace

void bind_encoder(py::module_& module) {
    py::class_<Encoder>(module, "GteEncoder", "A gte network; see csrc/include/care/encoder.hpp.")
        .def(py::init<Array<float>, const std::optional<Array<float>>&, const std::pair<Array<float>, Array<float>>&,
                      const Array<float>&, const Array<float>&, std::size_t, std::size_t, float, bool,
                      const std::string&>(),
             py::arg("word_embeddings").noconvert(), py::kw_only(), py::arg("token_type").noconvert(),
             py::arg("norm").noconvert(), py::arg("cosines").noconvert(), py::arg("sines").noconvert(),
             py::arg("heads"), py::arg("intermediate"), py::arg("epsilon"), py::arg("int8"), py::arg("instruction_set") = "")
        .def("add_layer", &Encoder::add_layer, py::kw_only(), py::arg("query").noconvert(),
             py::arg("key").noconvert(), py::arg("value").noconvert(), py::arg("output").noconvert(),
             py::arg("attention_norm").noconvert(), py::arg("gate").noconvert(), py::arg("up").noconvert(),
             py::arg("down").noconvert(), py::arg("feed_forward_norm").noconvert(),
             "Pack copies of a layer's weights.")
        .def("encode", &Encoder::encode, py::arg("ids").noconvert(), py::arg("lengths").noconvert(), py::kw_only(),
             py::arg("pooling"), py::arg("normalize_first"), py::arg("width"), py::arg("threads"),
             "Return vectors [texts, width] of texts whose ids are concatenated.")
        .def_property_readonly("nbytes", &Encoder::nbytes, "Bytes of the packed weights.");
}
