"""Peers of the benchmarks on a GPU: their calls on a CPU, with stand-ins for libraries that need a GPU."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from bench.gpu import peers
from care_accel.encoding import EncoderSpec

K = 4
SPEC = EncoderSpec(pooling="first", order="normalize-then-slice", width=3)


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).standard_normal((300, 12), dtype=np.float32)


@pytest.fixture
def best(vectors):
    return np.argsort(-vectors[:5] @ vectors.T, axis=1)[:, :K]


def test_cuvs_is_asked_for_inner_products(monkeypatch, vectors, best):
    library = ModuleType("cuvs.neighbors.brute_force")
    library.build = lambda stored, metric: SimpleNamespace(stored=stored, metric=metric)

    def search(index, queries, k):
        assert index.metric == "inner_product"
        values, ids = torch.topk(queries @ index.stored.T, k)
        return values.numpy(), ids.numpy().astype(np.int32)

    library.search = search
    for name in ("cuvs", "cuvs.neighbors"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, library.__name__, library)
    stored = torch.from_numpy(vectors)
    found = peers.cuvs_brute_force(stored, K)(stored[:5])
    assert found.dtype == torch.int64
    np.testing.assert_array_equal(found.numpy(), best)


def test_faiss_is_asked_for_inner_products(monkeypatch, vectors, best):
    faiss = pytest.importorskip("faiss", reason="the peer faiss is not installed")
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "GpuIndexFlatIP", lambda _, width: faiss.IndexFlatIP(width), raising=False)
    found = peers.faiss_flat(vectors, K)(torch.from_numpy(vectors[:5]))
    np.testing.assert_array_equal(found.numpy(), best)


def test_a_faiss_without_a_gpu_is_skipped(monkeypatch, vectors):
    faiss = pytest.importorskip("faiss", reason="the peer faiss is not installed")
    monkeypatch.delattr(faiss, "StandardGpuResources", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no GPU parts"):
        peers.faiss_flat(vectors, K)


def write_small_graph(network, spec, file):
    """Write the graph of a network whose vectors are its token ids, without what is masked, times its weight."""
    from onnx import TensorProto, helper, numpy_helper, save_model

    assert network.weight.device.type == "cpu"
    half = network.weight.dtype == torch.float16
    shape = ["batch", "tokens"]
    nodes = [
        helper.make_node("Mul", ["input_ids", "attention_mask"], ["kept"]),
        helper.make_node("Cast", ["kept"], ["values"], to=TensorProto.FLOAT16 if half else TensorProto.FLOAT),
        helper.make_node("Mul", ["values", "weight"], ["products"]),
        helper.make_node("Cast", ["products"], ["vectors"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, shape)
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(network.weight.detach().numpy(), "weight")],
    )
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)


@pytest.mark.parametrize(("dtype", "weight"), [("float16", np.float16(0.1)), ("float32", np.float32(0.1))])
def test_onnx_runtime_runs_a_copy_of_the_network_in_another_dtype(monkeypatch, dtype, weight):
    for library in ("onnx", "onnxruntime"):
        pytest.importorskip(library, reason="the peer onnxruntime is not installed (extra onnx)")
    # A real export takes twenty seconds; tests/export has it.
    monkeypatch.setattr("care_accel.export.graph.write_graph", write_small_graph)
    network = torch.nn.Module()
    network.weight = torch.nn.Parameter(torch.tensor([0.1]))
    ids, mask = np.arange(6).reshape(2, 3), np.array([[1, 1, 1], [1, 1, 0]])
    encode = peers.onnxruntime(network, SPEC, "CPUExecutionProvider", dtype)
    found = encode(ids, mask)
    assert found.dtype == np.float32
    np.testing.assert_allclose(
        found, ids * mask * float(weight), rtol=1e-6
    )  # 0.1 differs by more in the other dtype
    assert network.weight.dtype == torch.float32


def test_an_onnx_runtime_without_the_provider_is_skipped():
    pytest.importorskip("onnxruntime", reason="the peer onnxruntime is not installed (extra onnx)")
    with pytest.raises(pytest.skip.Exception, match="has no NoSuchProvider"):
        peers.onnxruntime(None, SPEC, "NoSuchProvider", "float16")
