"""A Ray cluster of this machine."""

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def cluster_of_this_machine():
    """Yield the address of a cluster: a head without CPUs, and two nodes of one each."""
    from ray.cluster_utils import Cluster

    folders = [str(Path(__file__).parents[3]), str(Path(__file__).parent)]
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "RAY_USAGE_STATS_ENABLED")}
    os.environ["PYTHONPATH"] = os.pathsep.join([*folders, *filter(None, [before["PYTHONPATH"]])])
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # 127.0.0.1 would be rewritten to the machine's own address.
    node = {"object_store_memory": 80 << 20, "include_dashboard": False}
    folder = Path(tempfile.gettempdir(), "ray")  # Ray's own choice
    was_there = folder.exists()
    head = {**node, "num_cpus": 0, "node_ip_address": "127.0.0.2"}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for last in (3, 4):
            cluster.add_node(
                num_cpus=1, node_ip_address=f"127.0.0.{last}", object_store_memory=node["object_store_memory"]
            )
        yield cluster.address
    finally:
        cluster.shutdown()
        if not was_there:
            shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
