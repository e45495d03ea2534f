import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.harness import repeat

ROOT = Path(__file__).parents[2]


def run(**ratios):
    """Return a run of one group; a ratio may say that it is noisy."""
    rows = [{"suite": "scan", "group": "g", "name": "ours", "ours": True, "ratio": 1.0, "noisy": False}]
    for name, ratio in ratios.items():
        noisy = isinstance(ratio, tuple)
        value = ratio[0] if noisy else ratio
        rows.append(
            {"suite": "scan", "group": "g", "name": name, "ours": False, "ratio": value, "noisy": noisy}
        )
    return {"id": "x", "revision": "abc", "size": "default", "rows": rows}


def test_rows_of_both_runs_are_compared_whichever_is_larger():
    found = repeat.repeated(run(a=2.0, b=4.0, only=1.0), run(a=2.2, b=3.0))
    assert [(row.key[2], round(row.change, 3)) for row in found] == [("b", 0.333), ("a", 0.1)]


def test_a_row_that_one_run_marks_is_noisy():
    (found,) = repeat.repeated(run(a=(2.0,)), run(a=4.0))
    assert found.noisy


@pytest.mark.parametrize(
    ("runs", "code", "words"),
    [
        (
            [run(a=2.0, b=(2.0,)), run(a=2.1, b=9.0)],
            0,
            "1 marked as too noisy to quote; of the other 1, 1 agree",
        ),
        ([run(a=2.0), run(a=3.0)], 1, "UNMARKED, 50% apart: scan / g / a"),
        ([run(a=2.0)], 2, "1 runs of size default; two are compared"),
        ([run(a=2.0), run(b=2.0)], 2, "no row in common"),
    ],
)
def test_the_command_says_what_does_not_come_out_again(tmp_path, runs, code, words):
    file = tmp_path / "machine.json"
    file.write_text(json.dumps({"schema": 1, "runs": runs}))
    done = subprocess.run(
        [sys.executable, "-m", "bench.harness.repeat", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, words in done.stdout + done.stderr) == (code, True), done.stdout + done.stderr
