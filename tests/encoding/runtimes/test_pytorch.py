import sys

import numpy as np
import pytest
import torch

from care_accel import CareError
from care_accel.encoding import EncoderSpec
from care_accel.encoding.loading.checkpoint import Checkpoint
from care_accel.encoding.packed_network import PackedNetwork
from care_accel.encoding.runtimes import pytorch
from care_accel.encoding.runtimes.cuda_graphs import CudaGraphs
from care_accel.encoding.runtimes.pytorch import PyTorchRuntime, may_have_gpu, resolve_device


def test_auto_is_a_gpu_where_there_is_one(monkeypatch):
    for there, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert resolve_device("auto") == device


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("cpu") == "cpu"
    with pytest.raises(CareError, match="no GPU"):
        resolve_device("cuda:0")
    with pytest.raises(CareError, match="unknown device 'abacus'"):
        resolve_device("abacus")


@pytest.mark.parametrize("file", ["nvidia0", "nvidiactl", "nvmap", "kfd", "dxg", None])
def test_pytorch_is_asked_for_a_gpu_only_where_there_may_be_one(tmp_path, monkeypatch, file):
    def no_driver(name):
        raise OSError(name)

    monkeypatch.setattr(pytorch, "_DEVICES", tmp_path)
    monkeypatch.setattr(pytorch.ctypes, "CDLL", no_driver)
    monkeypatch.setattr(sys, "platform", "linux")
    assert may_have_gpu()  # as PyTorch is loaded, to ask it costs nothing
    monkeypatch.delitem(sys.modules, "torch")
    assert not may_have_gpu()
    if file is not None:
        (tmp_path / file).touch()
        assert may_have_gpu()
        return
    monkeypatch.setattr(pytorch.ctypes, "CDLL", lambda name: object())
    assert may_have_gpu()
    monkeypatch.setattr(pytorch.ctypes, "CDLL", no_driver)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert may_have_gpu()


def runtime_of(folder, **options):
    spec = EncoderSpec(pooling="first", order="normalize-then-slice", width=20, device="cpu", max_tokens=64)
    return PyTorchRuntime(Checkpoint(folder).load_network("float32"), spec, **options)


def test_texts_of_several_lengths_are_packed_and_of_one_length_padded(tiny_folders):
    runtime = runtime_of(tiny_folders / "query_encoder")
    assert runtime.not_packed is None
    assert runtime.packs([[5, 6], [7]])
    assert not runtime.packs([[5, 6], [7, 8]])
    assert not runtime.packs([[5]])
    found = runtime.encode_rows([[5, 6], [7]])
    np.testing.assert_allclose(
        found, runtime(np.array([[5, 6], [7, 0]]), np.array([[1, 1], [1, 0]])), atol=2e-6
    )
    assert (runtime.counts.packed, runtime.counts.eager) == (1, 1)


def test_on_a_gpu_texts_are_packed_where_no_graph_fits_them(tiny_folders):
    runtime = runtime_of(tiny_folders / "query_encoder")
    runtime._on_gpu = True
    assert runtime.packs([[5]])
    runtime.graphs = CudaGraphs(
        runtime._encode, "cpu", [(2, 16)], lambda forward, ids, mask: lambda: forward(ids, mask)
    )
    assert not runtime.packs([[5], [5, 6]])
    assert runtime.packs([[5], [5, 6], [7]])
    assert runtime.packs([[5] * 17])


def test_a_network_that_cannot_be_packed_is_padded(tiny_folders, monkeypatch):
    monkeypatch.setattr(PackedNetwork, "unsupported", lambda network, device: "not this one")
    runtime = runtime_of(tiny_folders / "query_encoder")
    assert runtime.not_packed == "not this one"
    assert not runtime.packs([[5, 6], [7]])
