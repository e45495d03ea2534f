"""A model that is loaded once, a corpus of several files, and one Ray cluster for all tests."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
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
    from ray.cluster_utils import Cluster

    folders = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "RAY_USAGE_STATS_ENABLED")}
    os.environ["PYTHONPATH"] = os.pathsep.join([*folders, *filter(None, [before["PYTHONPATH"]])])
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # 127.0.0.1 would be rewritten to the machine's own address.
    node = {"object_store_memory": 80 << 20, "include_dashboard": False}
    folder = Path(tempfile.gettempdir(), "ray")  # Ray's own choice
    was_there = folder.exists()
    head = {**node, "num_cpus": 0, "node_ip_address": "127.0.0.2"}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for last in (3, 4):
        cluster.add_node(
            num_cpus=1, node_ip_address=f"127.0.0.{last}", object_store_memory=node["object_store_memory"]
        )
    yield cluster.address
    cluster.shutdown()
    if not was_there:
        shutil.rmtree(folder, ignore_errors=True)
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
