"""Every architecture of the native engine against transformers in float64, and against itself."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING, AutoModel, BertConfig, GteConfig, Qwen3Config, RobertaConfig

from care_accel import CareError, DualEncoder, _native
from care_accel.encoding.runtimes.architectures import ACTIVATIONS, describe, unsupported
from care_accel.encoding.runtimes.native import NativeRuntime
from care_accel.encoding.spec import EncoderSpec
from care_accel.kernels import pool, project

VOCABULARY = 200
PADDING = 1  # of every network here
TABLE = 40
# Sizes that no instruction set divides evenly, and those of real networks in the small.
NETWORKS = {
    "bert": ("bert", {"hidden_size": 36, "num_attention_heads": 3, "intermediate_size": 50}),
    "bert of one head": (
        "bert",
        {"hidden_size": 33, "num_attention_heads": 1, "intermediate_size": 1, "num_hidden_layers": 1},
    ),
    "bert, heads of 32": (
        "bert",
        {"hidden_size": 96, "num_attention_heads": 3, "intermediate_size": 384, "hidden_act": "gelu_new"},
    ),
    "roberta": ("roberta", {"hidden_size": 35, "num_attention_heads": 5, "intermediate_size": 64}),
    "xlm-roberta": (
        "xlm-roberta",
        {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 70, "hidden_act": "relu"},
    ),
    "qwen3": (
        "qwen3",
        {
            "hidden_size": 36,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 10,
            "intermediate_size": 50,
        },
    ),
    "qwen3 with biases, bidirectional": (
        "qwen3",
        {
            "hidden_size": 64,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "intermediate_size": 96,
            "attention_bias": True,
            "hidden_act": "gelu_new",
            "is_causal": False,
        },
    ),
}
POOLINGS = ("first", "last", "mean")


@functools.cache
def network(model_type, seed=0, **config):
    values = {
        "vocab_size": VOCABULARY,
        "num_hidden_layers": 2,
        "max_position_embeddings": TABLE + PADDING + 1 if "roberta" in model_type else TABLE,
        "pad_token_id": PADDING,
        **config,
    }
    torch.manual_seed(seed)
    made = AutoModel.from_config(CONFIG_MAPPING[model_type](**values)).eval()
    with torch.no_grad():
        for name, weights in made.named_parameters():  # fresh ones have zero biases and norms that do nothing
            if "word_embeddings" not in name and "embed_tokens" not in name:
                weights += 0.1 * torch.randn_like(weights)
    return made


def named(name):
    model_type, config = NETWORKS[name]
    return network(model_type, **config)


def spec(net, **changes):
    values = {"pooling": "mean", "order": "normalize-then-slice", "width": net.config.hidden_size}
    return EncoderSpec(**(values | {"device": "cpu", "max_tokens": TABLE} | changes))


def batch(lengths, side="right", seed=0):
    random = np.random.default_rng(seed)
    ids = np.full((len(lengths), max(lengths)), PADDING, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, length in enumerate(lengths):
        place = slice(ids.shape[1] - length, None) if side == "left" else slice(length)
        ids[row, place] = random.integers(PADDING + 1, VOCABULARY, length)
        mask[row, place] = 1
    return ids, mask


def texts(ids, mask):
    return [row[there == 1][None] for row, there in zip(ids, mask, strict=True)]


def alone(runtime, ids, mask):
    """Return the vectors of texts that never had a neighbour or any padding."""
    return np.concatenate([runtime(row, np.ones_like(row)) for row in texts(ids, mask)])


def transformers_vectors(net, ids, mask, made):
    """Return the vectors of transformers' network in float64, one text at a time."""
    exact = AutoModel.from_config(net.config, attn_implementation="eager").double().eval()
    exact.load_state_dict(net.state_dict())
    found = []
    with torch.inference_mode():
        for row in texts(ids, mask):
            there = torch.ones(row.shape, dtype=torch.int64)
            hidden = exact(input_ids=torch.from_numpy(row), attention_mask=there).last_hidden_state
            found.append(project(pool(hidden, there, made.pooling), made.width, made.order).numpy())
    return np.concatenate(found)


def cosines(a, b):
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("instruction_set", _native.instruction_sets())
@pytest.mark.parametrize("name", NETWORKS)
def test_vectors_are_transformers_and_int8_s_are_near(name, instruction_set):
    net, (ids, mask) = named(name), batch([5, 1, TABLE, 17, 16, 33])
    for pooling in POOLINGS:
        made = spec(net, pooling=pooling)
        expected = transformers_vectors(net, ids, mask, made)
        found = NativeRuntime(net, made, instruction_set=instruction_set)(ids, mask)
        np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)
        int8 = spec(net, pooling=pooling, dtype="int8")
        coded = NativeRuntime(net, int8, instruction_set=instruction_set)(ids, mask)
        assert cosines(coded, expected).min() > 0.99


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("instruction_set", _native.instruction_sets())
@pytest.mark.parametrize("name", NETWORKS)
def test_a_vector_is_the_same_to_the_last_bit_in_any_batch_on_any_threads(name, instruction_set, dtype):
    net = named(name)
    # More tokens than go through the layers together.
    ids, mask = batch([3, TABLE, 1, 9, 16, 30, 7, 25, 33, *[TABLE] * 12])
    for pooling in POOLINGS:
        made = spec(net, pooling=pooling, dtype=dtype)
        one, two = (
            NativeRuntime(net, made, threads=threads, instruction_set=instruction_set) for threads in (1, 2)
        )
        expected = alone(one, ids, mask)
        assert np.array_equal(one(ids, mask), expected)
        assert np.array_equal(two(ids[::-1], mask[::-1]), expected[::-1])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_network_of_any_size_has_transformers_vectors_alone_and_in_a_batch(data):
    draw = data.draw
    heads = draw(st.integers(1, 5), "heads")
    kind = draw(st.sampled_from(["bert", "roberta", "xlm-roberta", "qwen3"]), "network")
    head = draw(st.integers(1, 40), "head size")
    others = {"type_vocab_size": draw(st.integers(1, 2), "types")}
    if kind == "qwen3":
        head += head % 2  # it is rotated in pairs
        shared = draw(st.sampled_from([n for n in range(1, heads + 1) if heads % n == 0]), "key heads")
        others = {
            "num_key_value_heads": shared,
            "head_dim": head,
            "attention_bias": draw(st.booleans(), "bias"),
        }
    net = network(
        kind,
        seed=draw(st.integers(0, 3), "seed"),
        hidden_size=heads * head if kind != "qwen3" else draw(st.integers(1, 150), "hidden"),
        num_attention_heads=heads,
        intermediate_size=draw(st.integers(1, 150), "intermediate"),
        num_hidden_layers=draw(st.integers(1, 3), "layers"),
        hidden_act=draw(st.sampled_from(sorted(ACTIVATIONS)), "activation"),
        **others,
    )
    pooling = draw(st.sampled_from(POOLINGS), "pooling")
    width = draw(st.integers(1, net.config.hidden_size), "width")
    side = draw(st.sampled_from(["left", "right"]), "side")
    ids, mask = batch(draw(st.lists(st.integers(1, TABLE), min_size=1, max_size=6), "lengths"), side)
    made = spec(net, pooling=pooling, width=width)
    runtime = NativeRuntime(net, made)
    found = runtime(ids, mask)
    # LayerNorm of very few values magnifies what float32 rounds.
    near = 1e-5 if net.config.hidden_size >= 16 else 1e-3
    np.testing.assert_allclose(found, transformers_vectors(net, ids, mask, made), atol=near, rtol=0)
    assert np.array_equal(found, alone(runtime, ids, mask))


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_activations_are_transformers(activation):
    net = network("bert", hidden_size=32, num_attention_heads=2, intermediate_size=64, hidden_act=activation)
    made, one = spec(net), batch([TABLE, 7])
    expected = transformers_vectors(net, *one, made)
    np.testing.assert_allclose(NativeRuntime(net, made)(*one), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("model_type", "most"), [("bert", TABLE), ("roberta", TABLE), ("xlm-roberta", TABLE)]
)
def test_a_text_as_long_as_the_table_of_positions_runs_and_a_longer_one_is_refused_before_the_work(
    model_type, most
):
    net = network(model_type, hidden_size=32, num_attention_heads=2, intermediate_size=64)
    runtime = NativeRuntime(net, spec(net, max_tokens=512))
    assert np.isfinite(runtime(*batch([most, 2]))).all()
    with pytest.raises(
        CareError, match=f"has {most + 1} tokens.*positions for {most}; set max_tokens to {most}"
    ):
        runtime(*batch([most + 1, 2]))


@pytest.mark.parametrize("model_type", ["roberta", "xlm-roberta"])
def test_the_padding_id_within_a_text_is_not_counted_as_transformers_does(model_type):
    net = network(model_type, hidden_size=32, num_attention_heads=2, intermediate_size=64)
    made = spec(net)
    for ids in ([PADDING], [5, PADDING, 7, PADDING, PADDING, 9], [PADDING, 3]):
        row = np.array([ids])
        expected = transformers_vectors(net, row, np.ones_like(row), made)
        np.testing.assert_allclose(
            NativeRuntime(net, made)(row, np.ones_like(row)), expected, atol=1e-6, rtol=0
        )


def encoder(net, weights, max_tokens=TABLE, **others):
    made = describe(net.config.to_dict(), weights, max_tokens, **others)
    built = _native.Encoder(**made.network, int8=False)
    for layer in made.layers:
        built.add_layer(**layer)
    return built


def vectors(built, net, rows):
    return built.encode(
        rows,
        pooling="mean",
        normalize_first=True,
        width=net.config.hidden_size,
        threads=1,
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_missing_biases_are_zero(name):
    net = named(name)
    weights = {key: values.numpy() for key, values in net.state_dict().items()}
    is_bias = {key: key.endswith(".bias") and "Norm" not in key for key in weights}
    without = {key: values for key, values in weights.items() if not is_bias[key]}
    zeros = {key: np.zeros_like(values) if is_bias[key] else values for key, values in weights.items()}
    rows = [[5, 6, 7], [*range(8, 25)]]
    found = vectors(encoder(net, without), net, rows)
    assert np.array_equal(found, vectors(encoder(net, zeros), net, rows))


@pytest.mark.parametrize(("rows", "words"), [([[1], 2], "a list of ids"), ([["头"]], "'str' object")])
def test_texts_are_lists_of_integers(rows, words):
    net = named("bert")
    weights = {key: values.numpy() for key, values in net.state_dict().items()}
    with pytest.raises(TypeError, match=words):
        vectors(encoder(net, weights), net, rows)


@pytest.mark.parametrize("rope", [{"rope_type": "default"}, {"rope_type": "linear", "factor": 3.0}])
def test_a_rotary_network_needs_no_pytorch(rope):
    config = {"hidden_size": 48, "num_attention_heads": 3, "intermediate_size": 64}
    net = AutoModel.from_config(
        GteConfig(
            vocab_size=VOCABULARY, num_hidden_layers=2, rope_parameters=rope | {"rope_theta": 1e4}, **config
        )
    ).eval()
    weights = {key: values.numpy() for key, values in net.state_dict().items()}
    ids, mask = batch([300])
    runtime = NativeRuntime(net, spec(net, max_tokens=300))
    found = vectors(encoder(net, weights, 300), net, [ids[0].tolist()])
    np.testing.assert_allclose(found, runtime(ids, mask), atol=2e-6, rtol=0)
    values = net.config.to_dict() | {
        "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}
    }
    with pytest.raises(CareError, match="rope_type 'yarn' needs its network in PyTorch"):
        describe(values, weights, 300)


def test_missing_weights_are_named():
    net = named("bert")
    weights = {key: values.numpy() for key, values in net.state_dict().items()}
    del weights["encoder.layer.1.output.dense.weight"]
    with pytest.raises(CareError, match=r"lacks the weights 'encoder.layer.1.output.dense.weight'"):
        describe(net.config.to_dict(), weights, TABLE)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (BertConfig(position_embedding_type="relative_key"), "not position_embedding_type 'relative_key'"),
        (RobertaConfig(position_embedding_type="relative_key_query"), "'relative_key_query'"),
        (BertConfig(is_decoder=True), "not a network with is_decoder"),
        (RobertaConfig(add_cross_attention=True), "not a network with add_cross_attention"),
        (BertConfig(hidden_act="quick_gelu"), "not 'quick_gelu'"),
        (CONFIG_MAPPING["camembert"](), "networks, not camembert"),
        (Qwen3Config(use_sliding_window=True, max_window_layers=1), "not sliding windows"),
        (
            Qwen3Config(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
            "'dynamic'",
        ),
    ],
)
def test_what_would_be_wrong_without_a_word_is_refused(config, reason):
    assert reason in unsupported(config.to_dict())


def test_a_pooling_that_the_engine_has_not_is_refused():
    made = spec(named("bert"))
    object.__setattr__(made, "pooling", "max")
    assert "supports the poolings" in NativeRuntime.unsupported_reason(named("bert").config, made)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu"])
def test_an_embedding_that_is_no_number_is_seen_in_the_vector_and_leaves_nothing_behind(activation, dtype):
    net = network("bert", hidden_size=40, num_attention_heads=2, intermediate_size=64, hidden_act=activation)
    kept = net.embeddings.word_embeddings.weight[7].clone()
    runtime = NativeRuntime(net, spec(net, dtype=dtype))
    ids = np.array([[1, 2]])
    before = runtime(ids, np.ones_like(ids))
    with torch.no_grad():
        net.embeddings.word_embeddings.weight[7] = torch.nan
    assert np.isnan(runtime(np.full_like(ids, 7), np.ones_like(ids))).all()
    np.testing.assert_array_equal(runtime(ids, np.ones_like(ids)), before)
    with torch.no_grad():
        net.embeddings.word_embeddings.weight[7] = kept


@pytest.mark.parametrize("model_type", ["bert", "roberta", "xlm-roberta", "qwen3"])
def test_a_folder_is_run_natively_by_default(make_encoder, tmp_path, model_type):
    folder = make_encoder(tmp_path / model_type, model_type, max_position_embeddings=600)
    options = {"query": folder, "document": folder, "preset": "care", "device": "cpu"}
    model = DualEncoder.from_pretrained(**options)
    assert model.choice("query").runtime == "native"
    asked = ["高血压怎么办", "", "头痛三天，咳嗽，发热，多饮水休息" * 5]
    expected = DualEncoder.from_pretrained(**options, runtime="pytorch").encode_document(asked)
    np.testing.assert_allclose(model.encode_document(asked), expected, atol=1e-5, rtol=0)
    coded = DualEncoder.from_pretrained(**options, dtype="int8").encode_document(asked)
    there = expected.any(axis=1)  # a text of padding alone is zero where its embedding is
    assert cosines(coded[there], expected[there]).min() > 0.99
