"""Searches a collection by shards on three Ray nodes of this machine, and compares each answer with that of one process.

`python -m bench.cluster.shards DOCUMENTS.jsonl QUERIES.jsonl` (rows with ``text``). Queries in batches by two and by seven shards;
single queries for the time; replicas killed under load, with two of each shard, and a node, and with one. It needs the extra ``cluster``.
"""

import argparse
import dataclasses
import json
import os
import signal
import tempfile
import threading
import time
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np

from care_accel import Collection
from care_accel.cluster.shards import ShardedCollection
from care_accel.cluster.shards.calls import Limits, ShardAway

BATCH = 50
LIMITS = Limits(shard=30.0, refresh=5.0, settle=10.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("documents", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("--count", type=int, default=10_000, help="queries")
    parser.add_argument("--shards", type=int, nargs="*", default=[2, 7])
    parser.add_argument("--replicas", type=int, nargs="*", default=[2, 1], help="of which one is killed")
    parser.add_argument("--seconds", type=float, default=20.0, help="of load, for each kill")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "cluster-shards"))
    options = parser.parse_args()
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    from ray.cluster_utils import Cluster

    options.folder.mkdir(exist_ok=True)
    collection = opened(options)
    given = read(options.queries)
    some = cycle(row["text"] for row in given)
    texts = [next(some) for _ in range(options.count)]
    vectors = collection.model.encode_query(texts)
    collection.search_vectors(vectors[:1])
    small = {"object_store_memory": 80 << 20}
    head = {"num_cpus": 0, "node_ip_address": "127.0.0.2", "include_dashboard": False, **small}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1, node_ip_address=f"127.0.0.{last}", **small) for last in (3, 4)]
    try:
        for shards in options.shards:
            with_shards(cluster.address, collection, vectors, shards)
        for replicas in options.replicas:
            lost = partial(cluster.remove_node, nodes.pop(), allow_graceful=False) if replicas > 1 else None
            killed(options, cluster.address, collection, vectors, replicas, lost)
            if lost:
                nodes.append(cluster.add_node(num_cpus=1, node_ip_address="127.0.0.5", **small))
    finally:
        cluster.shutdown()


def opened(options: argparse.Namespace) -> Collection:
    folder = options.folder / "collection"
    if folder.exists():
        return Collection.open(folder, threads=1)
    collection = Collection.create(folder, threads=1)
    rows = read(options.documents)
    collection.upsert([{"id": str(number), "text": row["text"]} for number, row in enumerate(rows)])
    return collection


def read(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def served(address, collection, shards, replicas=1, limits=LIMITS):
    return ShardedCollection.serve(
        collection.uri, cluster=address, shards=shards, replicas=replicas, cpus=0.1, limits=limits
    )


def with_shards(address, collection, vectors, shards) -> None:
    searched = served(address, collection, shards)
    try:
        equal = 0
        for start in range(0, len(vectors), BATCH):
            some = vectors[start : start + BATCH]
            expected = collection.search_vectors(some)
            found = searched.search_vectors(some).hits
            equal += sum(one == other for one, other in zip(expected, found, strict=True))
        times = {"shards": [], "one_process": []}
        for row in range(500):
            for name, search in (
                ("shards", searched.search_vectors),
                ("one_process", collection.search_vectors),
            ):
                begun = time.perf_counter()
                search(vectors[row : row + 1])
                times[name].append(1e3 * (time.perf_counter() - begun))
        milliseconds = {
            name: {f"p{share}": round(float(np.percentile(own, share)), 2) for share in (50, 99)}
            for name, own in times.items()
        }
        tell(documents=len(collection), shards=shards, queries=len(vectors), equal=equal, ms=milliseconds)
    finally:
        searched.stop()


def killed(options, address, collection, vectors, replicas, lose_node) -> None:
    # Ray Serve holds a request until there is a replica again: without another one, not for long.
    limits = LIMITS if replicas > 1 else dataclasses.replace(LIMITS, shard=0.5)
    searched = served(address, collection, 2, replicas, limits)
    expected = collection.search_vectors(vectors[:200])
    counts = dict.fromkeys(("asked", "whole", "partial", "refused", "failed", "wrong"), 0)
    counting = threading.Lock()
    ended = threading.Event()

    def ask(first: int) -> None:
        for row in cycle(range(first, 200)):
            if ended.is_set():
                return
            kinds = ["asked"]
            try:
                answer = searched.search_vectors(vectors[row : row + 1], require_all=bool(row % 2))
                kinds.append("partial" if answer.partial else "whole")
                if not answer.partial and answer.hits[0] != expected[row]:
                    kinds.append("wrong")
            except ShardAway:
                kinds.append("refused")
            except Exception as cause:
                print(repr(cause), flush=True)
                kinds.append("failed")
            with counting:
                for kind in kinds:
                    counts[kind] += 1

    threads = [threading.Thread(target=ask, args=(first,)) for first in (0, 50)]
    try:
        for thread in threads:
            thread.start()
        for number in (0, 1):
            time.sleep(2)
            os.kill(process_of(searched, number), signal.SIGKILL)
            time.sleep(options.seconds)
        if lose_node:
            lose_node()
            time.sleep(options.seconds)
        ended.set()
        for thread in threads:
            thread.join()
        tell(replicas=replicas, killed=2, nodes_lost=int(bool(lose_node)), **counts)
    finally:
        ended.set()
        searched.stop()


def process_of(searched: ShardedCollection, number: int) -> int:
    """Return the process number of a replica."""
    loaded = searched._run(searched._router._shards[number].call("load", searched.version))
    return int(loaded.replica.partition("-")[0])


def tell(**values) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
