import sys
from pathlib import Path

import pytest
import torch

from bench.gpu import check

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("place", [*check.SUITES, *check.TESTS_OF_THE_SCAN, *check.TESTS_OF_NETWORKS])
def test_what_it_runs_is_there(place):
    assert (ROOT / place).exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="is of a machine without a GPU")
def test_a_machine_without_a_gpu_is_refused_before_anything_is_built(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["check", "--out", str(tmp_path / "out")])
    assert check.main() == 2
    assert "needs torch with a visible GPU" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
