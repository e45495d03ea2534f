"""A model that is loaded once, a corpus of several files, and one Ray cluster for all tests."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "support"))
from cluster_corpus import document, write_lines, write_parquet

from care_accel import DualEncoder


@pytest.fixture(scope="session")
def model():
    return DualEncoder.from_pretrained("care-mini")


@pytest.fixture
def corpus(tmp_path):
    """Return a folder of lines and a Parquet file; a document of the first is there again, changed, in the second."""
    rows = [document(number) for number in range(30)]
    lines = write_lines(tmp_path / "a.jsonl", rows[:20])
    table = write_parquet(tmp_path / "b.parquet", [*rows[20:], document(3, draft=1)], 6)
    return [lines, table]


@pytest.fixture(scope="session")
def address():
    """Return the address of a cluster: a head without CPUs, and two nodes of one each."""
    pytest.importorskip("ray", reason="needs the extra cluster: make cluster")
    from nodes import cluster_of_this_machine

    with cluster_of_this_machine() as address:
        yield address
