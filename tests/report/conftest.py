import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import samples


@pytest.fixture
def everything(tmp_path):
    """Return folders of results and benchmarks that have all there is: seven tasks, five models, two machines."""
    results, bench = tmp_path / "results", tmp_path / "bench"
    samples.write_everything(results, bench)
    return results, bench
