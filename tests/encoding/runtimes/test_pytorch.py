import pytest
import torch

from care_accel import CareError
from care_accel.encoding.runtimes.pytorch import resolve_device


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
