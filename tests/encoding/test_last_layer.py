import copy

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModel

from care_accel.encoding import EncoderSpec
from care_accel.encoding.last_layer import PooledNetwork
from care_accel.kernels import ORDERS, POOLINGS, pool, project

WIDTH = 20
# Grouped keys, as qwen3's large networks have them, and as many key heads as heads; a head size of its own.
NETWORKS = {
    "gte": ("gte", {"hidden_size": 32}),
    "gte without token types": ("gte", {"hidden_size": 32, "type_vocab_size": 0}),
    "qwen3": ("qwen3", {"hidden_size": 48, "num_key_value_heads": 2, "head_dim": 20}),
    "qwen3 ungrouped": ("qwen3", {"hidden_size": 48, "num_key_value_heads": 4, "head_dim": 12}),
    "qwen3, bidirectional": (
        "qwen3",
        {"hidden_size": 48, "num_key_value_heads": 4, "head_dim": 12, "is_causal": False},
    ),
}


def network_of(name, **changes):
    model_type, values = NETWORKS[name]
    if model_type not in CONFIG_MAPPING:
        pytest.skip(f"this release of transformers has no {model_type}")
    torch.manual_seed(3)
    sizes = {
        "vocab_size": 50,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "pad_token_id": 0,
    }
    network = AutoModel.from_config(CONFIG_MAPPING[model_type](**sizes | values | changes)).eval()
    with torch.no_grad():  # norms and biases start as ones and zeros, which hides mistakes
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def spec_of(pooling="first", order="normalize-then-slice"):
    return EncoderSpec(pooling=pooling, order=order, width=WIDTH)


def batch_of(lengths, left=False, tokens=None):
    tokens = tokens or max(lengths)
    mask = torch.tensor([[1] * n + [0] * (tokens - n) for n in lengths])
    mask = mask.flip(1) if left else mask
    ids = torch.randint(1, 50, mask.shape, generator=torch.Generator().manual_seed(1))
    return ids * mask, mask


def plain(network, ids, mask, spec):
    hidden = network(input_ids=ids, attention_mask=mask).last_hidden_state
    return project(pool(hidden, mask, spec.pooling), spec.width, spec.order)


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("name", NETWORKS)
@torch.inference_mode()
def test_vectors_equal_the_plain_network_s(name, pooling, left):
    network = network_of(name)
    spec = spec_of(pooling)
    pooled = PooledNetwork(network, spec)
    assert pooled.trimmed == (pooling != "mean")
    for lengths in ([7, 1, 4], [5, 5], [1], [9]):
        ids, mask = batch_of(lengths, left)
        found = pooled(ids, mask)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, plain(network, ids, mask, spec), atol=1e-6, rtol=0)


@pytest.mark.parametrize("order", ORDERS)
@torch.inference_mode()
def test_a_vector_does_not_depend_on_its_neighbours(order):
    pooled = PooledNetwork(network_of("qwen3"), spec_of("last", order))
    ids, mask = batch_of([6, 3], left=True)
    torch.testing.assert_close(pooled(ids, mask)[1:], pooled(ids[1:, -3:], mask[1:, -3:]), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_the_network_stays_whole_and_shares_its_weights():
    network = network_of("gte")
    ids, mask = batch_of([4, 2])
    before = network(input_ids=ids, attention_mask=mask).last_hidden_state
    pooled = PooledNetwork(network, spec_of())
    torch.testing.assert_close(network(input_ids=ids, attention_mask=mask).last_hidden_state, before)
    assert {id(p) for p in pooled.parameters()} == {id(p) for p in network.parameters()}


@torch.inference_mode()
def test_a_merged_adapter_is_trimmed_as_well():
    peft = pytest.importorskip("peft")
    network = network_of("qwen3")
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    merged = peft.get_peft_model(copy.deepcopy(network), config).merge_and_unload().eval()
    ids, mask = batch_of([5, 3], left=True)
    pooled = PooledNetwork(merged, spec_of("last"))
    assert pooled.trimmed
    found = pooled(ids, mask)
    torch.testing.assert_close(found, plain(merged, ids, mask, spec_of("last")), atol=1e-6, rtol=0)
    assert (found - plain(network, ids, mask, spec_of("last"))).abs().max() > 1e-3


@torch.inference_mode()
def test_other_networks_run_as_they_are():
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = AutoModel.from_config(CONFIG_MAPPING["bert"](**sizes, intermediate_size=64)).eval()
    kinds = ["full_attention"] * 2 + ["sliding_attention"]
    window = network_of("qwen3", layer_types=kinds, use_sliding_window=True, sliding_window=2)
    ids, mask = batch_of([5, 3])
    for one in (network, window):
        pooled = PooledNetwork(one, spec_of("last"))
        assert not pooled.trimmed
        torch.testing.assert_close(pooled(ids, mask), plain(one, ids, mask, spec_of("last")))


@pytest.mark.parametrize("name", ["gte", "qwen3"])
@torch.inference_mode()
def test_the_last_layer_computes_one_token(name):
    network = network_of(name)
    seen = []
    for layer in network.layers:
        layer.mlp.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].shape[1]))
    PooledNetwork(network, spec_of("first"))(*batch_of([7, 4]))
    assert seen == [7, 7, 1]


@pytest.mark.parametrize("name", ["gte", "qwen3"])
@torch.inference_mode()
def test_torch_export_traces_it_with_any_batch_and_length(name):
    network = network_of(name)
    pooled = PooledNetwork(network, spec_of("last"))
    batch, tokens = torch.export.Dim("batch", max=64), torch.export.Dim("tokens", max=128)
    shapes = {"input_ids": {0: batch, 1: tokens}, "attention_mask": {0: batch, 1: tokens}}
    program = torch.export.export(pooled, batch_of([6, 3]), dynamic_shapes=shapes).module()
    for lengths in ([4, 9, 2], [1]):
        ids, mask = batch_of(lengths)
        torch.testing.assert_close(program(ids, mask), pooled(ids, mask), atol=1e-6, rtol=0)


@torch.inference_mode()
def test_torch_compile_takes_it_as_one_graph():
    pooled = PooledNetwork(network_of("gte"), spec_of("first"))
    compiled = torch.compile(pooled, fullgraph=True, backend="aot_eager", dynamic=True)
    ids, mask = batch_of([6, 3])
    torch.testing.assert_close(compiled(ids, mask), pooled(ids, mask), atol=1e-6, rtol=0)
