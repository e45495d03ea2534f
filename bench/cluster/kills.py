"""Encodes documents on three Ray nodes of this machine while a worker, a node, and then the driver are killed.

Each run is compared with the table of one process: `python -m bench.cluster.kills DOCUMENTS.jsonl --runs 10`. It needs the extra
``cluster``.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from care_accel import Collection
from care_accel.collection.storage.table import OWN, VECTOR

INDEX = [sys.executable, "-m", "care_accel", "index"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("documents", type=Path)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--dtype", default="int8")
    parser.add_argument("--part-tokens", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "cluster-kills"))
    options = parser.parse_args()
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    options.folder.mkdir(exist_ok=True)
    truth = options.folder / "truth"
    if not truth.exists():
        command = [*INDEX, str(options.documents), "--collection", str(truth), "--dtype", options.dtype]
        subprocess.run(command, check=True)
    known = content(truth)
    random.seed(options.seed)
    for number in range(options.runs):
        print(json.dumps({"run": number} | one_run(options, known)), flush=True)


def one_run(options: argparse.Namespace, known) -> dict:
    from ray.cluster_utils import Cluster

    folder = options.folder / "run"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    small = {"object_store_memory": 80 << 20}
    head = {"num_cpus": 0, "node_ip_address": "127.0.0.2", "include_dashboard": False, **small}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1, node_ip_address=f"127.0.0.{last}", **small) for last in (3, 4)]
    command = [*INDEX, str(options.documents), "--collection", str(folder / "made"), "--dtype", options.dtype]
    command += ["--cluster", cluster.address, "--part-tokens", str(options.part_tokens)]
    command += ["--json-log", str(folder / "log.jsonl")]
    begun = time.monotonic()
    try:
        with (folder / "driver.log").open("w") as log:
            driver = subprocess.Popen(command, stdout=log, stderr=log)
            moments = []
            wait_for(folder, "worker", 1, driver)
            for what in ("worker", "node", "driver"):
                parts = count(events(folder), "part")
                wait_for(folder, "part", parts + random.randrange(1, 6), driver)
                time.sleep(random.uniform(0, 2))
                moments.append({what: round(time.monotonic() - begun, 1)})
                if what == "worker":
                    ready = [event["worker"] for event in events(folder) if event["event"] == "worker"]
                    os.kill(int(random.choice(ready[-2:]).rpartition(":")[2]), signal.SIGKILL)
                elif what == "node":
                    cluster.remove_node(nodes[0], allow_graceful=False)
                    time.sleep(random.uniform(0, 5))
                    cluster.add_node(num_cpus=1, node_ip_address="127.0.0.5", **small)
                else:
                    driver.kill()
                    driver.wait()
            subprocess.run(command, check=True, stdout=log, stderr=log, timeout=600)
    finally:
        if driver.poll() is None:
            driver.kill()
            driver.wait()
        cluster.shutdown()
    return report(folder, known) | {"killed_at_s": moments, "seconds": round(time.monotonic() - begun, 1)}


def report(folder: Path, known) -> dict:
    happened = events(folder)
    sizes = {event["part"]: event["documents"] for event in happened if event["event"] == "part"}
    begins = [event["part"] for event in happened if event["event"] == "begin"]
    known_parts = set(sizes)
    again = [part for part in known_parts for _ in range(begins.count(part) - 1)]
    made = content(folder / "made")
    return {
        "equal": equal(made, known),
        "documents": made.num_rows,
        "parts": happened[0]["parts"],
        "parts_begun_again": len(again),
        "documents_encoded_again_at_most": sum(sizes[part] for part in again),
        "deaths": count(happened, "death"),
        "commits": count(happened, "commit"),
        "verified": Collection.open(folder / "made").verify().ok,
    }


def events(folder: Path) -> list[dict]:
    file = folder / "log.jsonl"
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def count(happened: list[dict], name: str) -> int:
    return sum(event["event"] == name for event in happened)


def wait_for(folder: Path, name: str, number: int, driver: subprocess.Popen) -> None:
    ended = time.monotonic() + 300
    while count(events(folder), name) < number:
        if time.monotonic() > ended or driver.poll() is not None:
            raise SystemExit(f"the driver ended, or nothing happened: {(folder / 'driver.log').read_text()}")
        time.sleep(0.3)


def content(uri: Path):
    table = Collection.open(uri)._state.table
    found = table.read([*OWN, *sorted(table.fields)])
    return found.sort_by([("id", "ascending"), ("_chunk", "ascending")]).combine_chunks()


def equal(one, other) -> bool:
    names = [name for name in one.column_names if name != VECTOR]
    if not one.select(names).equals(other.select(names)):
        return False
    bits = [np.asarray(table[VECTOR].combine_chunks().flatten()).view(np.uint32) for table in (one, other)]
    return np.array_equal(*bits)


if __name__ == "__main__":
    main()
