"""Endurance test: memory growth and failed requests under steady load.

``python -m bench.serving.endurance --minutes 10 --write endurance.json``

Eight clients: five search, two encode queries, one encodes documents, 16 per request. Every few seconds the resident
memory of the server and of each model's process is read. Later readings are compared with those after the warm-up, when
caches are full and every buffer has reached its largest size.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

from bench.inputs import texts
from bench.serving import clients, load
from care_accel.serving import Server

REPOSITORY = Path(__file__).parents[2] / "model_repository"
CLIENTS = {"search": 5, "query_encoder": 2, "document_encoder": 1}
ROWS = {"document_encoder": 16}


def endless(model: str) -> Iterator[clients.Request]:
    """Yield requests whose texts repeat only after some hundred thousand: pairs of titles make new texts."""
    some = texts.answers() if model == "document_encoder" else texts.questions()
    pairs = (
        f"{one} {other}" for step in itertools.count(1) for one, other in zip(some, some[step:], strict=False)
    )
    return clients.requests(model, itertools.chain(some, pairs), ROWS.get(model, 1))


def memory(pid: int) -> dict[str, int]:
    """Return the resident bytes of each of the server's processes; shared pages count for each."""
    held: dict[str, int] = {}
    for process in psutil.Process(pid).children(recursive=True):
        name = load.process_name(process)
        held[name] = held.get(name, 0) + process.memory_info().rss
    return held


class Watch(threading.Thread):
    """Reads the memory every few seconds until ``ended`` is set."""

    def __init__(self, pid: int, every: float) -> None:
        super().__init__(daemon=True)
        self._pid, self._every = pid, every
        self.ended = threading.Event()
        self.samples: list[tuple[float, dict[str, int]]] = []

    def run(self) -> None:
        """Read and print."""
        begun = time.monotonic()
        while not self.ended.wait(self._every):
            self.samples.append((time.monotonic() - begun, memory(self._pid)))
            if len(self.samples) % 12 == 0:
                seconds, held = self.samples[-1]
                print(f"{seconds:5.0f} s: {sum(held.values()) / 2**20:,.1f} MiB", file=sys.stderr, flush=True)


def growth(samples: list[tuple[float, dict[str, int]]], warm_up: float) -> dict[str, dict[str, float]]:
    """Compare the last tenth of the readings with the first tenth after the warm-up, each process by itself."""
    later = [held for seconds, held in samples if seconds >= warm_up]
    part = max(1, len(later) // 10)
    found = {}
    for name in [*later[0], "all"]:
        sizes = [sum(held.values()) if name == "all" else held.get(name, 0) for held in later]
        first, last = float(np.median(sizes[:part])), float(np.median(sizes[-part:]))
        found[name] = {
            "first_mib": round(first / 2**20, 1),
            "last_mib": round(last / 2**20, 1),
            "most_mib": round(max(sizes) / 2**20, 1),
            "growth": round(last / first - 1, 4),
        }
    return found


def main() -> int:
    """Run the command line and return its exit code: 0 if memory did not grow and no request failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repository", type=Path, default=REPOSITORY)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--warm-up", type=float, default=60.0, help="seconds; default: %(default)s")
    parser.add_argument(
        "--every", type=float, default=5.0, help="seconds between readings; default: %(default)s"
    )
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    loads = [load.Load(endless(model), count) for model, count in CLIENTS.items()]
    with Server(options.repository) as server:
        assert server.process is not None
        watch = Watch(server.process.pid, options.every)
        watch.start()
        seconds = 60 * options.minutes + options.warm_up
        results = load.run(server.grpc, *loads, seconds=seconds, pid=server.process.pid)
        watch.ended.set()
        watch.join()
    report = {
        "minutes": options.minutes,
        "memory": growth(watch.samples, options.warm_up),
        "load": {
            model: {
                key: value
                for key, value in one.summary().items()
                if key in ("requests", "errors", "per_second", "p50_p90_p99_ms")
            }
            for model, one in zip(CLIENTS, results, strict=True)
        },
        "models": results[0].models,
        "samples": [[round(at, 1), held] for at, held in watch.samples],
    }
    print(json.dumps({key: value for key, value in report.items() if key != "samples"}, indent=1))
    if options.write:
        options.write.write_text(json.dumps(report) + "\n", encoding="utf-8")
    failed = sum(sum(one.errors.values()) for one in results)
    return int(failed > 0 or report["memory"]["all"]["growth"] > 0.05)


if __name__ == "__main__":
    sys.exit(main())
