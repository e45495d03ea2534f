import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("suite", sorted(file.name for file in (ROOT / "bench").glob("test_*.py")))
def test_a_suite_runs_at_its_smallest_size_and_every_group_has_one_row_of_ours(suite, tmp_path):
    results = tmp_path / "machine.json"
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "--benchmark-only"]
    done = subprocess.run(
        [*command, "--bench-size", "smoke", "--bench-results", str(results), str(ROOT / "bench" / suite)],
        capture_output=True,
        text=True,
        check=False,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")},  # of the run around it
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    if not results.is_file():
        lacking = next((what for what in ("needs a GPU", "needs a server") if what in done.stdout), None)
        assert lacking is not None, done.stdout[-3000:]
        pytest.skip(lacking)
    (run,) = json.loads(results.read_text())["runs"]
    groups = Counter((row["suite"], row["group"]) for row in run["rows"])
    ours = Counter((row["suite"], row["group"]) for row in run["rows"] if row["ours"])
    assert set(ours.values()) == {1}
    assert groups.keys() == ours.keys()
    for row in run["rows"]:
        assert row["p50_ms"] > 0
        assert row["ratio"] > 0
        assert row["limit"] is None or row["limit"]["share"] > 0
