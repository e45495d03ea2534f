import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("suite", sorted(file.name for file in (ROOT / "bench").glob("test_*.py")))
def test_a_benchmark_suite_runs_at_its_smallest_size(suite):
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "--benchmark-disable"]
    done = subprocess.run(
        [*command, "--bench-size", "smoke", str(ROOT / "bench" / suite)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    if " passed" not in done.stdout:
        lacking = next((what for what in ("needs a GPU", "needs a server") if what in done.stdout), None)
        assert lacking is not None
        pytest.skip(lacking)
