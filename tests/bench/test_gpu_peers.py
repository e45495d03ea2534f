"""Peers of the benchmarks on a GPU: their calls on a CPU, with stand-ins for libraries that need a GPU."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from bench.gpu import peers
from care_accel.encoding import EncoderSpec
from care_accel.encoding.runtimes.pytorch import PyTorchRuntime

K = 4


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


@pytest.fixture(scope="module")
def network(make_encoder, tmp_path_factory):
    from transformers import AutoModel

    return AutoModel.from_pretrained(make_encoder(tmp_path_factory.mktemp("gte"), "gte")).eval()


def test_onnx_runtime_gives_the_vectors_of_the_network(network):
    pytest.importorskip("onnxruntime", reason="the peer onnxruntime is not installed (extra onnx)")
    spec = EncoderSpec(pooling="first", order="normalize-then-slice", width=8, device="cpu", max_tokens=16)
    ids = np.random.default_rng(1).integers(5, 40, (3, 7))
    expected = PyTorchRuntime(network, spec)(ids, np.ones_like(ids))
    found = peers.onnxruntime(network, spec, "CPUExecutionProvider", "float16")(ids, np.ones_like(ids))
    assert found.dtype == np.float32
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert 0.999 < ((found * expected).sum(axis=1) / norms).min() < 0.9999999
    assert next(network.parameters()).dtype == torch.float32  # it was copied


def test_an_onnx_runtime_without_the_provider_is_skipped(network):
    pytest.importorskip("onnxruntime", reason="the peer onnxruntime is not installed (extra onnx)")
    with pytest.raises(pytest.skip.Exception, match="has no NoSuchProvider"):
        peers.onnxruntime(network, None, "NoSuchProvider", "float16")
