import copy

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModel

from care_accel.encoding import EncoderSpec
from care_accel.encoding.dense_layers import DenseLayers
from care_accel.encoding.encoder import Tokens
from care_accel.encoding.last_layer import PooledNetwork
from care_accel.encoding.packed_network import PackedNetwork
from care_accel.encoding.runtimes.compiled import with_compiled_layers
from care_accel.encoding.spec import Dense
from care_accel.kernels import ORDERS, POOLINGS, pool, project

WIDTH, PADDING = 20, 1
_GROUPED = {"hidden_size": 48, "num_key_value_heads": 2, "head_dim": 20}
NETWORKS = {
    "bert": ("bert", {}),
    "gte": ("gte", {}),
    "llama": ("llama", {"num_key_value_heads": 2}),
    "qwen2": ("qwen2", {"num_key_value_heads": 2}),
    "qwen3": ("qwen3", _GROUPED),
    "qwen3, bidirectional": ("qwen3", {**_GROUPED, "is_causal": False}),
    "roberta": ("roberta", {}),
    "xlm-roberta": ("xlm-roberta", {}),
}


def network_of(name, **changes):
    model_type, values = NETWORKS[name]
    if model_type not in CONFIG_MAPPING:
        pytest.skip(f"this release of transformers has no {model_type}")
    torch.manual_seed(3)
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 64, "pad_token_id": PADDING, "max_position_embeddings": 64}
    network = AutoModel.from_config(CONFIG_MAPPING[model_type](**sizes | values | changes)).eval()
    with torch.no_grad():  # norms and biases start as ones and zeros, which hides mistakes
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def spec_of(pooling="first", order="normalize-then-slice", **values):
    return EncoderSpec(pooling=pooling, order=order, width=WIDTH, **values)


def texts_of(lengths):
    random = np.random.default_rng(1)
    return [random.integers(3, 50, length).tolist() for length in lengths]


def packed(network, rows):
    values, tokens, longest = network.pack(rows)
    assert longest >= max(map(len, rows))
    return network(torch.from_numpy(values), tokens, longest)


def plain(network, rows, spec):
    """Each text alone, in the unchanged network."""
    found = []
    for row in rows:
        ids = torch.tensor([row])
        hidden = network(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        mask = torch.ones_like(ids)
        mask[:, : getattr(row, "unpooled", 0)] = 0
        found.append(project(pool(hidden, mask, spec.pooling), spec.width, spec.order))
    return torch.cat(found)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("name", NETWORKS)
@torch.inference_mode()
def test_vectors_equal_those_of_each_text_alone(name, pooling):
    network = network_of(name)
    for order in ORDERS:
        spec = spec_of(pooling, order)
        assert PackedNetwork.unsupported(network, "cpu") is None
        together = PackedNetwork(network, spec)
        for lengths in ([7, 1, 4, 21], [5, 5], [1]):
            rows = texts_of(lengths)
            found = packed(together, rows)
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, plain(network, rows, spec), atol=2e-6, rtol=0)


def test_the_last_layer_is_computed_for_pooled_tokens_where_these_see_the_whole_text():
    trimmed = {
        (name, pooling)
        for name in ("gte", "qwen3", "qwen3, bidirectional", "bert")
        for pooling in POOLINGS
        if PackedNetwork(network_of(name), spec_of(pooling)).trimmed
    }
    assert trimmed == {("gte", "first"), ("gte", "last"), ("qwen3", "last"), ("qwen3, bidirectional", "last")}


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("name", ["gte", "qwen3", "bert"])
@torch.inference_mode()
def test_a_prompt_that_is_not_pooled_is_seen_and_left_out(name, pooling):
    network, spec = network_of(name), spec_of(pooling, include_prompt=False)
    rows = [Tokens(row, count) for row, count in zip(texts_of([6, 9, 4]), (2, 5, 3), strict=True)]
    rows.append(texts_of([5])[0])
    found = packed(PackedNetwork(network, spec), rows)
    torch.testing.assert_close(found, plain(network, rows, spec), atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", ["roberta", "xlm-roberta"])
@torch.inference_mode()
def test_padding_ids_within_a_text_have_the_position_that_the_network_gives_them(name):
    network = network_of(name)
    rows = [[5, 6, 7], [PADDING], [8, PADDING, 9, PADDING, 10]]
    for pooling in POOLINGS:
        spec = spec_of(pooling)
        found = packed(PackedNetwork(network, spec), rows)
        torch.testing.assert_close(found, plain(network, rows, spec), atol=2e-6, rtol=0)


@torch.inference_mode()
def test_the_network_stays_as_it_is_and_shares_its_weights():
    network = network_of("gte")
    before = copy.deepcopy(network.config.to_dict())
    rows = texts_of([4, 2])
    expected = plain(network, rows, spec_of())
    together = PackedNetwork(network, spec_of())
    packed(together, rows)
    assert network.config.to_dict() == before
    torch.testing.assert_close(plain(network, rows, spec_of()), expected, atol=0, rtol=0)
    assert {id(p) for p in together.parameters()} == {id(p) for p in network.parameters()}


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("qwen3", {"layer_types": ["full_attention"] * 2 + ["sliding_attention"]}, "sliding windows"),
        (
            "qwen3",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "rope_type 'dynamic'",
        ),
        ("bert", {"is_decoder": True}, "packs encoders"),
    ],
)
def test_a_network_that_depends_on_its_batch_is_not_packed(name, changes, reason):
    assert reason in PackedNetwork.unsupported(network_of(name, **changes), "cpu")


def test_only_what_attention_supports_is_packed():
    assert "bert, gte, " in PackedNetwork.unsupported(
        AutoModel.from_config(CONFIG_MAPPING["distilbert"](vocab_size=9, dim=8, n_heads=2, n_layers=1)), "cpu"
    )
    assert "heads of 8, 16, ... 256 values, not 20" in PackedNetwork.unsupported(network_of("qwen3"), "cuda")
    network = network_of("qwen3", head_dim=16)
    assert "FlashAttention takes float16 and bfloat16" in PackedNetwork.unsupported(network, "cuda")
    assert PackedNetwork.unsupported(network.to(torch.bfloat16), "cuda:0") is None
    assert "not on mps" in PackedNetwork.unsupported(network, "mps")


@pytest.mark.parametrize(("name", "pooling"), [("gte", "first"), ("qwen3", "last"), ("bert", "mean")])
@torch.inference_mode()
def test_compiled_layers_are_whole_programs_for_packs_of_any_shape(name, pooling):
    together = PackedNetwork(network_of(name), spec_of(pooling))
    programs = []

    def compiler(program, inputs):
        programs.append(program)
        return program.forward

    compiled = with_compiled_layers(together, together.example("cpu"), backend=compiler)
    assert compiled is not together
    # One program for all layers, and one for the last one where it differs: no operation in a layer is left to Python.
    assert len(programs) == 1 + together.trimmed
    for lengths in ([7, 2, 4, 21], [50, 1, 9], [13] * 40):
        rows = texts_of(lengths)
        torch.testing.assert_close(packed(compiled, rows), packed(together, rows), atol=2e-6, rtol=0)
    assert len(programs) <= 2 * (
        1 + together.trimmed
    )  # another length of the longest text becomes a variable once


@torch.inference_mode()
def test_dense_layers_follow_as_in_the_padded_network():
    network = network_of("qwen3")
    layers = [Dense(width=WIDTH + 4, activation="tanh", normalize=True)]
    weights = [(torch.randn(WIDTH + 4, 48), torch.randn(WIDTH + 4))]
    spec = spec_of("last", dense=tuple(layers))
    dense = DenseLayers(layers, weights)
    rows = texts_of([6, 6])
    ids = torch.tensor(rows)
    expected = PooledNetwork(network, spec, dense)(ids, torch.ones_like(ids))
    torch.testing.assert_close(packed(PackedNetwork(network, spec, dense), rows), expected, atol=2e-6, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("name", NETWORKS)
@torch.inference_mode()
def test_packs_on_a_gpu_equal_each_text_alone(name, pooling):
    network, spec = network_of(name, head_dim=16).to("cuda", torch.bfloat16), spec_of(pooling)
    together = PackedNetwork(network, spec)
    rows = texts_of([7, 1, 4, 60])
    values, tokens, longest = together.pack(rows)
    found = together(torch.from_numpy(values).cuda(), tokens, longest).cpu()
    expected = plain(copy.deepcopy(network).float().cpu(), rows, spec)
    torch.testing.assert_close(found, expected, atol=5e-2, rtol=0)
