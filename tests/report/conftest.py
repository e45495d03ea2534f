import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import samples
from pages import Page

from care_accel.report import write_report


@pytest.fixture
def everything(tmp_path):
    """Return folders of results and benchmarks that have all there is: seven tasks, five models, two machines."""
    results, bench = tmp_path / "results", tmp_path / "bench"
    samples.write_everything(results, bench)
    return results, bench


@pytest.fixture
def page(tmp_path):
    """Return a function that writes a page of some folders and reads it."""

    def write(results, bench, **options):
        write_report(tmp_path / "page.html", results=results, bench=bench, **options)
        return Page(tmp_path / "page.html")

    return write
