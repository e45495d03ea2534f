import numpy as np
import onnx
import pytest

from care_accel import EncoderSpec
from care_accel.encoding.loading.checkpoint import Checkpoint
from care_accel.encoding.loading.dense import store_random, stored_files
from care_accel.encoding.runtimes.onnxruntime_cpu import OnnxRuntime
from care_accel.encoding.runtimes.pytorch import PyTorchRuntime
from care_accel.encoding.spec import Dense
from care_accel.export import graph


def padded(rng, batch, tokens, side):
    ids = rng.integers(3, 80, (batch, tokens))
    mask = np.ones_like(ids)
    for i in range(1, batch):
        length = rng.integers(1, tokens + 1)
        mask[i, slice(length, None) if side == "right" else slice(tokens - length)] = 0
    return ids * mask, mask


@pytest.mark.parametrize(
    ("role", "pooling", "order"),
    [
        ("query_encoder", "first", "normalize-then-slice"),
        ("document_encoder", "last", "normalize-then-slice"),
        ("query_encoder", "mean", "slice-then-normalize"),
    ],
)
def test_a_graph_gives_the_network_s_vectors_for_any_shape_and_padding(
    tiny_folders, tmp_path, role, pooling, order
):
    spec = EncoderSpec(pooling=pooling, order=order, width=20, device="cpu")
    network = Checkpoint(tiny_folders / role).load_network("float32")
    graph.write_graph(network, spec, tmp_path / "model.onnx")
    found, expected = OnnxRuntime(tmp_path / "model.onnx"), PyTorchRuntime(network, spec)
    rng = np.random.default_rng(0)
    for batch, tokens in ((1, 1), (1, 7), (5, 1), (3, 33), (2, 512)):
        for side in ("left", "right"):
            ids, mask = padded(rng, batch, tokens, side)
            vectors = found(ids, mask)
            assert vectors.shape == (batch, 20)
            np.testing.assert_allclose(vectors, expected(ids, mask), atol=1e-5)
    outputs = onnx.load(tmp_path / "model.onnx").graph.output
    assert [o.name for o in outputs] == ["vectors"]  # no hidden states leave it


@pytest.mark.parametrize(("role", "pooling"), [("query_encoder", "first"), ("document_encoder", "mean")])
def test_dense_layers_and_tokens_that_are_not_pooled_are_in_the_graph(tiny_folders, tmp_path, role, pooling):
    checkpoint = Checkpoint(tiny_folders / role)
    layers = [Dense(64, "gelu"), Dense(24, "tanh", bias=False, normalize=True)]
    store_random(layers, checkpoint.hidden_size, tmp_path / "dense")
    dense = Checkpoint(tiny_folders / role, dense=stored_files(tmp_path / "dense"))
    spec = EncoderSpec(pooling, "normalize-then-slice", 20, device="cpu", dense=layers, include_prompt=False)
    network, head = checkpoint.load_network("float32"), dense.load_dense(spec)
    graph.write_graph(network, spec, tmp_path / "model.onnx", head)
    found, expected = OnnxRuntime(tmp_path / "model.onnx"), PyTorchRuntime(network, spec, head)
    ids, mask = padded(np.random.default_rng(0), 4, 33, "right")
    mask[:, :3] *= 2
    mask[mask.max(axis=1) == mask.min(axis=1), -1] = 1
    mask[~(mask == 1).any(axis=1), 0] = 1  # a text has a token that is pooled
    np.testing.assert_allclose(found(ids, mask), expected(ids, mask), atol=1e-5)
    plain = np.minimum(mask, 1)
    assert np.abs(found(ids, plain) - found(ids, mask)).max() > 1e-3


def test_a_spec_with_dense_layers_is_not_written_without_them(tiny_folders, tmp_path):
    spec = EncoderSpec("first", "normalize-then-slice", 20, device="cpu", dense=[Dense(24)])
    network = Checkpoint(tiny_folders / "query_encoder").load_network("float32")
    with pytest.raises(ValueError, match="the dense layers of the spec and those given differ"):
        PyTorchRuntime(network, spec)


def test_weights_too_large_for_one_file_lie_beside_it(tiny_folders, tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "_MAX_INLINE_BYTES", 1000)
    spec = EncoderSpec(pooling="first", order="normalize-then-slice", width=20, device="cpu")
    network = Checkpoint(tiny_folders / "query_encoder").load_network("float32")
    graph.write_graph(network, spec, tmp_path / "model.onnx")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    ids = np.array([[5, 6, 7]])
    np.testing.assert_allclose(
        OnnxRuntime(tmp_path / "model.onnx")(ids, np.ones_like(ids)),
        PyTorchRuntime(network, spec)(ids, np.ones_like(ids)),
        atol=1e-5,
    )
