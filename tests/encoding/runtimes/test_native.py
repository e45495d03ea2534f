"""The native runtime against PyTorch, against the same int8 arithmetic in NumPy, and against itself."""

import dataclasses
import math
import multiprocessing
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GteConfig, GteModel

from care_accel import CareError, DualEncoder, _native
from care_accel.encoding.runtimes.native import NativeRuntime
from care_accel.encoding.runtimes.pytorch import PyTorchRuntime
from care_accel.encoding.spec import EncoderSpec

VOCABULARY = 300
SHAPES = {
    "tiny": {},  # hidden 32, 4 heads of 8
    "odd": {"hidden_size": 36, "num_attention_heads": 3, "intermediate_size": 50, "num_hidden_layers": 3},
    "one layer": {
        "hidden_size": 34,
        "num_attention_heads": 1,
        "intermediate_size": 1,
        "num_hidden_layers": 1,
    },
    "no types": {
        "type_vocab_size": 0,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 9e4, "factor": 2.0},
    },
    "care-mini": {"hidden_size": 256, "intermediate_size": 512},
}
LENGTHS = [5, 1, 40, 17, 16, 130]


def network(seed=0, **config):
    values = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    torch.manual_seed(seed)
    made = GteModel(GteConfig(**(values | config)), add_pooling_layer=False).eval()
    with torch.no_grad():
        for name, weights in made.named_parameters():  # fresh ones have zero biases and norms that do nothing
            if weights.ndim == 1:
                weights += 0.1 * torch.randn_like(weights)
            elif "embeddings" not in name:
                weights *= 4
    return made


def spec(**changes):
    values = {"pooling": "first", "order": "normalize-then-slice", "width": 24, "device": "cpu"}
    return EncoderSpec(**(values | changes))


def batch(lengths, side="right", seed=0):
    random = np.random.default_rng(seed)
    ids = np.zeros((len(lengths), max(lengths)), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, length in enumerate(lengths):
        place = slice(ids.shape[1] - length, None) if side == "left" else slice(length)
        ids[row, place] = random.integers(0, VOCABULARY, length)
        mask[row, place] = 1
    return ids, mask


def alone(runtime, ids, mask):
    """Return the vectors of texts that never had a neighbour or any padding."""
    rows = [row[there == 1][None] for row, there in zip(ids, mask, strict=True)]
    return np.concatenate([runtime(row, np.ones_like(row)) for row in rows])


def cosines(a, b):
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("instruction_set", _native.instruction_sets())
@pytest.mark.parametrize("shape", SHAPES)
def test_float32_is_pytorch_s_and_int8_is_near_for_every_shape(shape, instruction_set):
    net, ids_mask = network(**SHAPES[shape]), batch(LENGTHS)
    expected = PyTorchRuntime(net, spec())(*ids_mask)
    found = NativeRuntime(net, spec(), instruction_set=instruction_set)(*ids_mask)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)  # 2.3e-7 is the most that was seen
    coded = NativeRuntime(net, spec(dtype="int8"), instruction_set=instruction_set)(*ids_mask)
    assert cosines(coded, expected).min() > 0.99


@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
@pytest.mark.parametrize("order", ["normalize-then-slice", "slice-then-normalize"])
@pytest.mark.parametrize(("width", "side"), [(1, "left"), (17, "right"), (32, "left")])
def test_every_pooling_order_width_and_padding_is_the_reference_s(pooling, order, width, side):
    net, made = network(), spec(pooling=pooling, order=order, width=width)
    ids, mask = batch(LENGTHS, side)
    expected = PyTorchRuntime(net, made)(ids, mask)
    found = NativeRuntime(net, made)(ids, mask)
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)
    assert np.array_equal(found, NativeRuntime(net, made)(*batch(LENGTHS, "right")))


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize("instruction_set", _native.instruction_sets())
def test_a_vector_is_the_same_to_the_last_bit_in_any_batch_on_any_threads(dtype, pooling, instruction_set):
    net, made = network(), spec(dtype=dtype, pooling=pooling)
    # More tokens than go through the layers together, in an order that cuts batches anywhere.
    ids, mask = batch([3, 200, 1, 90, 16, 300, 7, 512, 2, 25, 33])
    one = NativeRuntime(net, made, threads=1, instruction_set=instruction_set)
    expected = alone(one, ids, mask)
    for threads in (1, 2, 3):
        runtime = NativeRuntime(net, made, threads=threads, instruction_set=instruction_set)
        assert np.array_equal(runtime(ids, mask), expected)
        assert np.array_equal(runtime(ids[::-1], mask[::-1]), expected[::-1])


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=12), dtype=st.sampled_from(["float32", "int8"])
)
def test_a_wide_network_on_threads_has_the_vectors_of_single_texts(lengths, dtype):
    runtime = wide_runtime(dtype)
    ids, mask = batch(lengths, seed=len(lengths))
    assert np.array_equal(runtime(ids, mask), alone(runtime, ids, mask))


WIDE = {}


def wide_runtime(dtype):
    """Return one that is worth two threads at any length."""
    if dtype not in WIDE:
        net = network(hidden_size=256, intermediate_size=1024, num_hidden_layers=3)
        WIDE[dtype] = NativeRuntime(net, spec(dtype=dtype), threads=2)
    return WIDE[dtype]


def int8_reference(net, ids, width):
    """Return the vector of one text in the arithmetic that encoder.hpp states, sums in float64."""

    def codes(values, limit=127, axis=-1, outliers=0):
        most, limit = np.abs(values).max(axis=axis, keepdims=True).astype(np.float32), np.float32(limit)
        if outliers:
            most = np.maximum(np.sort(np.abs(values.astype(np.float32)))[:, -1 - outliers, None], most / 128)
        return np.rint(values.astype(np.float32) * (limit / most)), most / limit

    def linear(layer, rows):
        (w, w_scale), (c, c_scale) = codes(layer.weight.detach().numpy()), codes(rows, outliers=2)
        product = (c @ w.T) * (c_scale * w_scale[:, 0])
        return product if layer.bias is None else product + layer.bias.detach().numpy()

    def norm(layer, rows):
        apart = rows - rows.mean(axis=-1, keepdims=True)
        apart /= np.sqrt((apart**2).mean(axis=-1, keepdims=True) + layer.eps)
        return apart * layer.weight.detach().numpy() + layer.bias.detach().numpy()

    def heads(rows):
        return rows.reshape(len(rows), net.config.num_attention_heads, -1).transpose(1, 0, 2)

    def rotated(rows):
        low, high = np.split(rows, 2, axis=-1)
        return rows * cos + np.concatenate([-high, low], axis=-1) * sin

    def gelu(values):
        return values * 0.5 * np.vectorize(math.erfc)(-values / math.sqrt(2))

    embeddings = net.embeddings
    words = embeddings.word_embeddings.weight.detach().numpy().astype(np.float64)
    rows = norm(
        embeddings.LayerNorm, words[ids] + embeddings.token_type_embeddings.weight[0].detach().numpy()
    )
    cos, sin = (v[0].numpy() for v in net.rotary_emb(torch.zeros(1), torch.arange(len(ids))[None]))
    for layer in net.layers:
        attention, mlp = layer.self_attn, layer.mlp
        q, k, v = (heads(linear(m, rows)) for m in (attention.q_proj, attention.k_proj, attention.v_proj))
        limit = min(8191, math.isqrt((2**31 - 1) // attention.head_dim))
        (q, q_scale), (k, k_scale), (v, v_scale) = (
            codes(rotated(q), limit),
            codes(rotated(k), limit),
            codes(v, 2047, axis=(1, 2)),
        )
        scores = (q @ k.transpose(0, 2, 1)) * (q_scale * k_scale.transpose(0, 2, 1)) * attention.scaling
        weights = np.rint(4095 * np.exp(scores - scores.max(axis=-1, keepdims=True)))
        mixed = (weights @ v) * v_scale / weights.sum(axis=-1, keepdims=True)
        mixed = mixed.transpose(1, 0, 2).reshape(len(ids), -1)
        rows = norm(layer.post_attention_layernorm, rows + linear(attention.o_proj, mixed))
        gated = gelu(linear(mlp.gate_proj, rows)) * linear(mlp.up_proj, rows)
        rows = norm(layer.post_mlp_layernorm, rows + linear(mlp.down_proj, gated))
    return (rows[0] / np.linalg.norm(rows[0]))[:width]


@pytest.mark.parametrize("instruction_set", _native.instruction_sets())
def test_int8_is_the_arithmetic_that_is_stated(instruction_set):
    # A code flips where a value lies within float32's error of a half; with few values that is rare.
    net = network(num_hidden_layers=1)
    runtime = NativeRuntime(net, spec(dtype="int8"), instruction_set=instruction_set)
    float32 = NativeRuntime(net, spec(), instruction_set=instruction_set)
    apart, beside = [], []
    for seed in range(20):
        ids, mask = batch([9], seed=seed)
        expected = int8_reference(net, ids[0], 24)
        apart.append(np.abs(runtime(ids, mask)[0] - expected).max())
        beside.append(np.abs(float32(ids, mask)[0] - expected).max())
    assert np.median(apart) < 5e-6
    assert max(apart) < min(beside)


@pytest.mark.parametrize("instruction_set", _native.instruction_sets())
@pytest.mark.parametrize("gain", [20, 500])  # the third largest value sets the scale, or the largest
def test_two_outliers_of_a_row_leave_the_others_their_precision(gain, instruction_set):
    net, outliers = network(num_hidden_layers=1), [5, 30]
    with torch.no_grad():
        net.embeddings.LayerNorm.weight[outliers] *= gain
        for layer in (net.layers[0].self_attn.v_proj, net.layers[0].mlp.up_proj, net.layers[0].mlp.gate_proj):
            layer.weight[:, outliers] /= gain
        net.layers[0].post_mlp_layernorm.weight[outliers] = 0
    coded, plain = (
        NativeRuntime(net, spec(dtype=dtype), instruction_set=instruction_set)
        for dtype in ("int8", "float32")
    )
    ids = [batch([9], seed=seed)[0] for seed in range(20)]
    found, floats = (np.concatenate([run(row, np.ones_like(row)) for row in ids]) for run in (coded, plain))
    expected = np.array([int8_reference(net, row[0], 24) for row in ids])
    assert np.median(np.abs(found - expected).max(axis=1)) < 5e-6
    assert cosines(found, floats).min() > 0.9999  # 0.9998 and 0.9994 with the scale of the largest


@pytest.mark.parametrize("instruction_set", _native.instruction_sets())
def test_integer_products_are_exact_at_their_largest(instruction_set):
    # Every code of the widest map and of its rows is 127 or -127: a step that saturates would spoil the sums.
    net = network(intermediate_size=4096, num_hidden_layers=1)
    mlp = net.layers[0].mlp
    with torch.no_grad():
        for layer in (mlp.gate_proj, mlp.up_proj):
            layer.weight[:] = layer.weight[0]
        mlp.down_proj.weight[:] = torch.where(torch.rand(32, 1) < 0.5, -1e-3, 1e-3)
    runtime = NativeRuntime(net, spec(dtype="int8"), instruction_set=instruction_set)
    for seed in range(5):
        ids, mask = batch([3], seed=seed)
        np.testing.assert_allclose(runtime(ids, mask)[0], int8_reference(net, ids[0], 24), atol=1e-5, rtol=0)


def test_python_threads_share_one_runtime():
    runtime = wide_runtime("int8")
    batches = [batch([3 + i, 20, 1], seed=i) for i in range(8)]
    expected = [runtime(*one) for one in batches]
    found = [[] for _ in batches]

    def run(place):
        for _ in range(10):
            found[place].append(runtime(*batches[place]))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(batches))]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    for i, vectors in enumerate(expected):
        assert len(found[i]) == 10
        assert all(np.array_equal(one, vectors) for one in found[i])


def test_a_forked_child_encodes_though_its_parent_s_threads_are_gone():
    runtime = wide_runtime("float32")
    ids, mask = batch([30, 40])
    expected = runtime(ids, mask)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=lambda: queue.put(runtime(ids, mask)))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert np.array_equal(queue.get(), expected)
    assert np.array_equal(runtime(ids, mask), expected)


def test_the_network_may_go_once_it_is_packed():
    net, one = network(), batch(LENGTHS)
    expected = PyTorchRuntime(net, spec())(*one)
    runtime = NativeRuntime(net, spec())
    del net
    np.testing.assert_allclose(runtime(*one), expected, atol=1e-6, rtol=0)


def test_half_precision_weights_are_widened():
    ids_mask = batch(LENGTHS)
    half = network().to(torch.float16)
    expected = PyTorchRuntime(network().to(torch.float16).float(), spec())(*ids_mask)
    np.testing.assert_allclose(NativeRuntime(half, spec())(*ids_mask), expected, atol=1e-6, rtol=0)


def test_int8_takes_a_quarter_of_the_memory():
    net = network(hidden_size=256, intermediate_size=512)
    float32, int8 = (NativeRuntime(net, spec(dtype=dtype)).nbytes for dtype in ("float32", "int8"))
    assert float32 == 4 * int8 == 4 * sum(w.numel() for w in net.layers.parameters() if w.ndim == 2)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_an_embedding_that_is_no_number_is_seen_in_the_vector(dtype):
    net = network()
    with torch.no_grad():
        net.embeddings.word_embeddings.weight[7, 3] = torch.nan
    ids = np.array([[7, 8, 9], [8, 9, 10]])
    vectors = NativeRuntime(net, spec(dtype=dtype))(ids, np.ones_like(ids))
    assert np.isnan(vectors[0]).all()
    assert np.isfinite(vectors[1]).all()


def test_weights_that_are_no_numbers_cannot_be_coded():
    net = network()
    with torch.no_grad():
        net.layers[1].mlp.up_proj.weight[3, 4] = torch.inf
    with pytest.raises(CareError, match="weights must be finite"):
        NativeRuntime(net, spec(dtype="int8"))


@pytest.mark.parametrize(
    ("config", "changes", "reason"),
    [
        ({"hidden_act": "tanh"}, {}, "not 'tanh'"),
        ({}, {"dtype": "bfloat16"}, "not 'bfloat16'"),
        ({}, {"device": "cuda:0"}, "on the CPU only"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, {}, "'dynamic'"),
    ],
)
def test_what_it_cannot_run_is_refused_in_words(config, changes, reason):
    net = network(**config)
    assert reason in NativeRuntime.unsupported_reason(net.config, spec(**changes))
    with pytest.raises(CareError, match="use runtime='pytorch'"):
        NativeRuntime(net, spec(**changes))


def test_another_network_is_refused():
    from transformers import T5Config

    assert "xlm-roberta networks, not t5" in NativeRuntime.unsupported_reason(T5Config(), spec())
    assert NativeRuntime.unsupported_reason(GteConfig(), spec(dtype="int8", device="auto")) is None


def test_what_does_not_fit_is_refused():
    runtime = NativeRuntime(network(), spec(max_tokens=8))
    for lengths, change in (([9], 0), ([3], VOCABULARY), ([3], -1_000)):
        ids, mask = batch(lengths)
        with pytest.raises(ValueError, match=r"positions|vocabulary"):
            runtime(ids + change, mask)
    with pytest.raises(ValueError, match="no tokens"):
        runtime(ids, np.zeros_like(mask))
    with pytest.raises(ValueError, match="no kernel for the instruction set 'abacus'"):
        NativeRuntime(network(), spec(), instruction_set="abacus")
    assert runtime(np.zeros((0, 3), np.int64), np.zeros((0, 3), np.int64)).shape == (0, 24)


def test_the_embedded_model_s_vectors_stay_what_they_are():
    from care_accel import DualEncoder

    encoder = DualEncoder.from_pretrained("care-mini", runtime="pytorch").encoder("query")
    texts = ["高血压怎么治", "头痛三天", "糖尿病患者能吃西瓜吗？" * 9]
    expected = encoder.encode(texts)
    net = encoder.runtime.network
    for dtype, near in (("float32", 1e-6), ("int8", 2e-2)):
        encoder.runtime = NativeRuntime(net, dataclasses.replace(encoder.spec, dtype=dtype))
        np.testing.assert_allclose(encoder.encode(texts), expected, atol=near, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("hidden", [24, 32, 40])
def test_a_text_that_is_no_number_leaves_nothing_behind(hidden, dtype):
    net = network(hidden_size=hidden)
    with torch.no_grad():
        net.embeddings.word_embeddings.weight[7] = float("nan")
    runtime = NativeRuntime(net, spec(dtype=dtype))
    ids = np.array([[1, 2]], dtype=np.int64)
    before = runtime(ids, np.ones_like(ids))
    assert np.isnan(runtime(np.full_like(ids, 7), np.ones_like(ids))).all()
    np.testing.assert_array_equal(runtime(ids, np.ones_like(ids)), before)


ROPES = {"linear": {"rope_type": "linear", "rope_theta": 5e3, "factor": 3.5}, "theta": {"rope_theta": 77.0}}


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "gte", "qwen3"])
@pytest.mark.parametrize("rope", ROPES)
def test_a_network_read_without_pytorch_has_the_same_vectors(make_encoder, tmp_path, monkeypatch, kind, rope):
    others = {"rope_parameters": ROPES[rope]} if kind in ("gte", "qwen3") else {}
    folder = make_encoder(tmp_path / "encoder", kind, max_position_embeddings=70, **others)
    made = DualEncoder.from_pretrained(query=folder, document=folder, max_tokens=64, runtime="native")
    texts = ["高血压患者应低盐饮食", "头痛", "感冒发热怎么办？多饮水休息" * 9]
    whole = NativeRuntime(made.source("query").checkpoint.load_network("float32"), made.spec("query"))
    expected = whole(*made.encoder("query").pad(made.encoder("query").tokenize(texts)))
    again = DualEncoder.from_pretrained(query=folder, document=folder, max_tokens=64, runtime="native")
    monkeypatch.setattr(type(made.source("query").checkpoint), "load_network", None)
    # Cosines of rotary positions are rounded by other libraries.
    np.testing.assert_allclose(again.encode_query(texts), expected, atol=1e-6 if others else 0, rtol=0)
