import sys

import pytest
import torch

from care_accel import CareError
from care_accel.encoding.runtimes import pytorch
from care_accel.encoding.runtimes.pytorch import may_have_gpu, resolve_device


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
