"""Every suite of bench/ at its smallest size: all in one process, as most of its time goes into importing the peers."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
SUITES = sorted(file.stem for file in (ROOT / "bench").glob("*/test_*.py"))

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Return the rows of a run of all suites by their suite, and what it printed."""
    folder = tmp_path_factory.mktemp("bench")
    results = folder / "machine.json"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rfEs",
        "--tb=short",
        "-p",
        "no:cacheprovider",
        "--benchmark-only",
    ]
    done = subprocess.run(
        [
            *command,
            f"--basetemp={folder / 'own'}",
            "--bench-size",
            "smoke",
            "--bench-results",
            str(results),
            str(ROOT / "bench"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")},  # of the run around it
    )
    assert done.returncode == 0, _what_failed(done.stdout) + done.stderr[-1000:]
    (run,) = json.loads(results.read_text())["runs"]
    return SimpleNamespace(rows=run["rows"], printed=done.stdout)


def _what_failed(printed):
    """Return the failures and the list of them, without the tables of times between the two."""
    names = [line for line in printed.splitlines() if line.startswith(("FAILED", "ERROR"))]
    begin = printed.find("= FAILURES =") if "= FAILURES =" in printed else printed.find("= ERRORS =")
    return "\n".join([*names, printed[begin : begin + 8000] if begin >= 0 else printed[-4000:]])


@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_runs_at_its_smallest_size_and_every_group_has_one_row_of_ours(smoke, suite):
    rows = [row for row in smoke.rows if row["suite"] == suite.removeprefix("test_").replace("_", " ")]
    if not rows:
        skipped = [line for line in smoke.printed.splitlines() if f"{suite}.py" in line]
        lacking = [
            what
            for what in ("needs a GPU", "needs a server", "needs the extra cluster")
            if what in "".join(skipped)
        ]
        assert lacking, smoke.printed[-3000:]
        pytest.skip(lacking[0])
    groups = Counter(row["group"] for row in rows)
    ours = Counter(row["group"] for row in rows if row["ours"])
    assert set(ours.values()) == {1}
    assert groups.keys() == ours.keys()
    for row in rows:
        assert row["p50_ms"] > 0
        assert row["ratio"] > 0
        assert row["limit"] is None or row["limit"]["share"] > 0
