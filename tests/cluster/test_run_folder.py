"""The folder of a run: records that are created once, and runtimes that are compared."""

import numpy as np
import pytest

from care_accel import CareError
from care_accel.cluster.plan import Plan
from care_accel.cluster.run_folder import RunFolder, seen_table


@pytest.fixture
def run(tmp_path):
    made = RunFolder.of(str(tmp_path))
    made.begin(Plan((), {}), 1)
    return made


def test_the_first_record_of_a_part_counts_and_a_twin_is_told(run, tmp_path):
    first = run.claim(3, {"files": ["a"]}, seen_table(["x"], []))
    second = run.claim(3, {"files": ["b"]}, seen_table(["y"], []))
    assert (first.won, second.won) == (True, False)
    assert second.values == first.values == run.record(3) == run.records()[3]
    assert run.seen(run.record(3))["id"].to_pylist() == ["x"]
    assert len(list((tmp_path / "run" / "records").iterdir())) == 2


def test_what_is_the_same_is_kept_with_its_hash(run):
    run.claim(0, {"files": []}, seen_table(["x"], [("y", b"1"), ("z", b"2")]))
    seen = run.seen(run.record(0))
    assert seen.to_pylist() == [
        {"id": "x", "hash": None},
        {"id": "y", "hash": b"1"},
        {"id": "z", "hash": b"2"},
    ]


def test_a_runtime_that_differs_is_refused_unless_it_is_allowed(run):
    vectors = np.float32([[0.5, 0.25], [1, 0]])
    run.check_runtime("native/float32", vectors, mixed=False)
    run.check_runtime("pytorch/float32", vectors + np.float32(5e-6), mixed=False)
    other = vectors + np.float32(1e-3)
    with pytest.raises(CareError, match=r"native/float32 of the run by 1\.0e-03.*--mixed-runtimes"):
        run.check_runtime("native/int8", other, mixed=False)
    run.check_runtime("native/int8", other, mixed=True)
    with pytest.raises(CareError, match="differs from native/float32"):
        run.check_runtime("native/int8", vectors * np.float32("nan"), mixed=False)


def test_files_are_readable_by_their_owner_only(run, tmp_path):
    run.claim(0, {"files": []}, seen_table(["x"], []))
    assert (tmp_path / "run").stat().st_mode & 0o077 == 0
    assert all(file.stat().st_mode & 0o077 == 0 for file in (tmp_path / "run" / "records").glob("*.json"))


def test_a_run_that_has_ended_is_none(run, tmp_path):
    assert run.plan() == Plan((), {})
    run.end()
    assert run.plan() is None
    assert not (tmp_path / "run").exists()
