"""Simulates a run of many workers by measured service times: where the driver, the storage and the router become the limit.

`python -m bench.cluster.simulation` prints the tables of docs/scale.md. Events are those of `care_accel.cluster`: parts are
handed out in the order of the plan, two to a worker, one driver takes records in, its thread commits in the order of the plan, and workers write
over one link. ``--one-thread`` has the driver commit itself, as before it had a thread for it.
"""

from __future__ import annotations

import argparse
import heapq
import random
from dataclasses import dataclass, replace

from care_accel.cluster.folding import _LEAST_ROWS, _MOST_ROWS, _SHARE
from care_accel.collection.estimate import CONSTANTS

WORKERS = (1, 8, 16, 32, 64)
SHARDS = (1, 2, 4, 8, 16, 32, 64)
COMMIT = CONSTANTS["commit_seconds"].value
COMPARE = CONSTANTS["compare_seconds_a_row"].value


@dataclass(frozen=True)
class Work:
    """A corpus and its workers.

    Attributes
    ----------
    name : str
    documents, tokens, width : int
        ``tokens`` of a document.
    part_tokens : int
    speed : float
        Tokens a second of a worker.
    link : float
        Bytes a second of the shared storage, by all workers.
    take : float
        Seconds in which the driver takes in a record and hands out a part: an assumption.
    read : float
        Seconds in which its thread reads the ids of a part, for each document: 7 ms for 11,428, measured on one core.
    spread : float
        Share by which times of parts differ.
    commit, compare : float
        Seconds of a commit, and of each row of the table whose id is compared for one.
    """

    name: str
    documents: int
    tokens: int
    width: int
    part_tokens: int
    speed: float
    link: float = 1.25e9
    take: float = 0.01
    read: float = 6e-7
    spread: float = 0.1
    commit: float = COMMIT
    compare: float = COMPARE


@dataclass
class Outcome:
    """Seconds of a run, and the shares of time in which driver, its commits and the link worked."""

    seconds: float
    efficiency: float
    driver: float
    committing: float
    link: float
    commits: int


def simulate(work: Work, workers: int, seed: int = 0, *, one_thread: bool = False) -> Outcome:
    """Return how long a run takes; with ``one_thread`` the driver hands out nothing while it commits."""
    random_ = random.Random(seed)
    a_part = max(1, work.part_tokens // work.tokens)
    parts = -(-work.documents // a_part)
    encode = a_part * work.tokens / work.speed
    written = a_part * work.width * 4.0
    queue = iter(range(parts))
    events: list[tuple[float, int, int]] = []  # the end of a part's encoding, its worker, the part
    for worker in range(workers):
        if (part := next(queue, None)) is not None:
            heapq.heappush(events, (_service(encode, work, random_), worker, part))
    # A worker has its next part before it ends this one; only the third waits for the driver.
    waiting = {worker: (0.0, part) for worker in range(workers) if (part := next(queue, None)) is not None}
    link = driver = committer = link_busy = driver_busy = committer_busy = 0.0
    done: set[int] = set()
    folded, rows, group, commits = 0, 0, 0, 0
    end = 0.0
    while events:
        now, worker, part = heapq.heappop(events)
        link = max(link, now) + written / work.link
        link_busy += written / work.link
        following = waiting.pop(worker, None)
        if following is not None:
            since, next_part = following
            heapq.heappush(events, (max(link, since) + _service(encode, work, random_), worker, next_part))
        driver, driver_busy = max(driver, link) + work.take, driver_busy + work.take
        spent = 0.0
        done.add(part)
        while folded in done:
            done.discard(folded)
            folded += 1
            group += min(a_part, work.documents - (folded - 1) * a_part)
            spent += a_part * work.read
            if group >= min(max(_LEAST_ROWS, _SHARE * rows), _MOST_ROWS) or folded == parts:
                spent += rows * work.compare + work.commit
                rows, group, commits = rows + group, 0, commits + 1
        committer, committer_busy = max(committer, driver) + spent, committer_busy + spent
        if one_thread:
            driver = committer
        end = max(end, driver, committer)
        # The driver hands out the next one: to a worker that has begun its second, or that stands still.
        if (third := next(queue, None)) is not None:
            if following is None:
                heapq.heappush(events, (driver + _service(encode, work, random_), worker, third))
            else:
                waiting[worker] = driver, third
    ideal = work.documents * work.tokens / work.speed / workers
    return Outcome(end, ideal / end, driver_busy / end, committer_busy / end, link_busy / end, commits)


def _service(encode: float, work: Work, random_: random.Random) -> float:
    return encode * random_.uniform(1 - work.spread, 1 + work.spread)


def works() -> list[Work]:
    """Return the runs of the page."""
    gpu = CONSTANTS["gpu_operations_a_second"].value * CONSTANTS["gpu_use"].value / (2 * 4e9)
    small = gpu * 4e9 / 3e8
    return [
        Work("4B network on GPUs", 100_000_000, 350, 768, 4_000_000, gpu),
        Work("300M network on GPUs", 100_000_000, 350, 768, 4_000_000, small),
        Work("300M network on GPUs, parts of 32 million tokens", 100_000_000, 350, 768, 32_000_000, small),
        Work("1 million titles, care-mini in int8, cores of one thread", 1_000_000, 14, 384, 220_000, 3_800),
    ]


def merging(hits: int, queries: int) -> dict[int, float]:
    """Return the seconds of a router's merge of the hits of shards, in float64, by the number of shards."""
    from time import perf_counter

    import numpy as np

    found = {}
    generator = np.random.default_rng(0)
    for shards in SHARDS:
        scores = -np.sort(-generator.random((queries, shards, hits)), axis=2)
        ids = generator.permuted(np.arange(queries * shards * hits)).reshape(scores.shape)
        times = []
        for one, names in zip(scores, ids, strict=True):
            begun = perf_counter()
            flat, numbers = np.concatenate(list(one)), np.concatenate(list(names))
            order = np.lexsort((numbers, -flat))[:hits]
            _ = numbers[order].tolist(), flat[order].tolist()
            times.append(perf_counter() - begun)
        found[shards] = float(np.median(times))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=768, help="of the vectors that a router sends")
    parser.add_argument("-k", type=int, default=100)
    parser.add_argument("--one-thread", action="store_true", help="the driver commits itself")
    parser.add_argument("--compare", type=float, default=COMPARE, help="seconds a row whose id is compared")
    options = parser.parse_args()
    for work in (replace(one, compare=options.compare) for one in works()):
        print(
            f"\n{work.name}\n\n| workers | hours | of ideal | driver busy | committing | link busy | commits |\n"
            "|---|---|---|---|---|---|---|"
        )
        for workers in WORKERS:
            one = simulate(work, workers, one_thread=options.one_thread)
            print(
                f"| {workers} | {one.seconds / 3600:,.2f} | {one.efficiency:.0%} | {one.driver:.1%} | "
                f"{one.committing:.1%} | {one.link:.1%} | "
                f"{one.commits} |"
            )
    print(
        f"\n| shards | merge of {options.k} hits each, one query | kB a query through the router | queries a second by 10 Gbit/s |"
    )
    print("|---|---|---|---|")
    for shards, seconds in merging(options.k, 200).items():
        moved = shards * (16 * options.k + 4 * options.width)
        print(f"| {shards} | {1e3 * seconds:.3f} ms | {moved / 1e3:,.1f} | {1.25e9 / moved:,.0f} |")


if __name__ == "__main__":
    main()
