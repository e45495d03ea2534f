"""Load generator for a running inference server: many clients in one event loop, each text sent once.

``python -m bench.serving.load localhost:8001 --model search --concurrency 1 8 64``, or with ``http://localhost:8000`` over HTTP.

Requests are serialised before the clock starts, and responses are parsed after it has stopped: where client and server
share a machine, the client's processor time is lost to the server. ``--client tritonclient`` measures tritonclient's own
calls instead, over gRPC.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import tritonclient.grpc as triton

from bench.inputs.texts import answers, questions
from bench.serving.clients import (
    CLIENTS,
    Reply,
    Request,
    http_request,
    requests,
)

# Phases of the server's own statistics, in the order of a request.
PARTS = ("queue", "compute_input", "compute_infer", "compute_output")


@dataclass
class Measured:
    """What one load saw.

    Attributes
    ----------
    seconds : float
        From the first request to the last answer.
    latencies : list of float
        Seconds of each request that was answered.
    errors : Counter of str
        Requests that failed, by status.
    last : bytes or Reply
        An answer.
    client, server : float, dict of str to float
        Processor seconds: of this process, and of the server's by name where it runs here.
    models : dict of str to dict
        What the server says of each model that was asked: see `spent`.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    last: bytes | Reply = b""
    client: float = 0.0
    server: dict[str, float] = field(default_factory=dict)
    models: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Requests answered a second."""
        return len(self.latencies) / self.seconds

    def at(self, percent: float) -> float:
        """Return a percentile of the latencies in milliseconds."""
        return 1e3 * float(np.percentile(self.latencies, percent))

    def summary(self) -> dict[str, Any]:
        """Return what is reported, as JSON has it."""
        answered = max(1, len(self.latencies))
        return {
            "requests": len(self.latencies),
            "errors": dict(self.errors),
            "per_second": round(self.rate, 1),
            "p50_p90_p99_ms": [round(self.at(percent), 3) for percent in (50, 90, 99)],
            "client_cpu_us": round(1e6 * self.client / answered, 1),
            "server_cpu_us": {name: round(1e6 * used / answered, 1) for name, used in self.server.items()},
            "models": self.models,
        }


@dataclass
class Load:
    """Requests, and how they are sent.

    Parameters
    ----------
    source : iterator of Request
    concurrency : int
        Closed loop: clients that each wait for the response before the next request.
    rate : float, optional
        Open loop instead: requests per second at random (Poisson) times; a latency counts from the time at which the
        request was due.
    most : int, optional
        Maximum number of requests.
    """

    source: Iterator[Request]
    concurrency: int = 1
    rate: float | None = None
    most: int | None = None


def run(
    address: str,
    *loads: Load,
    seconds: float,
    client: str = "raw",
    pid: int | None = None,
    counters: str | None = None,
) -> list[Measured]:
    """Send loads concurrently until the first one ends.

    Parameters
    ----------
    address : str
        ``host:port`` of gRPC, or a URL.
    *loads : Load
    seconds : float
    client : {"raw", "http", "tritonclient", "json"}
    pid : int, optional
        Process id of the server if it runs on this machine: its processor time is measured.
    counters : str, optional
        ``host:port`` of gRPC, where the server tells its statistics; by default ``address``, if it is one.

    Returns
    -------
    list of Measured
        One per load; processor time and statistics cover all loads and are in the first.
    """
    results = [Measured() for _ in loads]
    counters = counters or (address if client in ("raw", "tritonclient") else None)
    asking = triton.InferenceServerClient(counters) if counters else None
    try:
        before, used = statistics(asking), processor_seconds(pid)
        own = time.process_time()
        asyncio.run(_run(address, loads, results, seconds, CLIENTS[client]))
        results[0].client = time.process_time() - own
        after = processor_seconds(pid)
        results[0].server = {name: after[name] - used.get(name, 0.0) for name in after}
        results[0].models = spent(before, statistics(asking))
    finally:
        if asking:
            asking.close()
    return results


async def _run(
    address: str, loads: Sequence[Load], results: list[Measured], seconds: float, kind: type
) -> None:
    client = kind(address)
    begun = time.perf_counter()
    end = begun + seconds
    ended = asyncio.Event()
    try:
        tasks = [
            asyncio.ensure_future((_open if load.rate else _closed)(client, load, result, end, ended))
            for load, result in zip(loads, results, strict=True)
        ]
        await tasks[0]
        ended.set()
        await asyncio.gather(*tasks[1:])
    finally:
        await client.close()


async def _ask(client: Any, one: Request, result: Measured, due: float) -> None:
    try:
        result.last = await client.infer(one)
        result.latencies.append(time.perf_counter() - due)
    except (grpc.RpcError, triton.InferenceServerException) as failed:
        code = failed.code().name if isinstance(failed, grpc.RpcError) else str(failed.status())
        result.errors[code.removeprefix("StatusCode.")] += 1


async def _closed(client: Any, load: Load, result: Measured, end: float, ended: asyncio.Event) -> None:
    source = itertools.islice(load.source, load.most)

    async def worker() -> None:
        while not ended.is_set() and (now := time.perf_counter()) < end and (one := next(source, None)):
            await _ask(client, one, result, now)

    begun = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(load.concurrency)))
    result.seconds = time.perf_counter() - begun


async def _open(client: Any, load: Load, result: Measured, end: float, ended: asyncio.Event) -> None:
    assert load.rate is not None
    gaps = random.Random(1)
    begun = due = time.perf_counter()
    asked: set[asyncio.Task[None]] = set()
    for one in itertools.islice(load.source, load.most):
        due += gaps.expovariate(load.rate)
        if ended.is_set() or due > end:
            break
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.ensure_future(_ask(client, one, result, due))
        asked.add(task)
        task.add_done_callback(asked.discard)
    await asyncio.gather(*asked)
    result.seconds = time.perf_counter() - begun


def statistics(asking: triton.InferenceServerClient | None) -> dict[str, dict[str, float]]:
    """Return the server's counters of each model, times in microseconds; nothing of a server that has none."""
    found: dict[str, dict[str, float]] = {}
    if asking is None:
        return found
    for model in asking.get_inference_statistics().model_stats:
        stats = model.inference_stats
        found[model.name] = {
            "requests": stats.success.count,
            "rows": model.inference_count,
            "executions": model.execution_count,
            "failed": stats.fail.count,
            "cached": stats.cache_hit.count,
            "total": 1e-3 * stats.success.ns,
            **{part: 1e-3 * getattr(stats, part).ns for part in PARTS},
        }
    return found


def spent(
    before: dict[str, dict[str, float]], after: dict[str, dict[str, float]]
) -> dict[str, dict[str, float]]:
    """Return the difference of two statistics: mean microseconds per request by part, and rows per batch."""
    found = {}
    for name, now in after.items():
        change = {key: value - before.get(name, {}).get(key, 0) for key, value in now.items()}
        if not (count := change["requests"]):
            continue
        found[name] = {part: round(change[part] / count, 1) for part in ("total", *PARTS)}
        found[name] |= {key: change[key] for key in ("failed", "cached")}
        if change["executions"]:
            found[name]["batch"] = round(change["rows"] / change["executions"], 2)
    return found


def processor_seconds(pid: int | None) -> dict[str, float]:
    """Return the processor seconds of the server and of each model's own process so far."""
    if pid is None:
        return {}
    used: dict[str, float] = {}
    server = psutil.Process(pid)
    for process in (server, *server.children(recursive=True)):
        with process.oneshot():
            name, times = process_name(process), process.cpu_times()
        used[name] = used.get(name, 0.0) + times.user + times.system
    return used


def process_name(process: psutil.Process) -> str:
    """Return the model whose process it is, or ``server``."""
    for argument in process.cmdline():
        if argument.endswith("/model.py"):
            return Path(argument).parents[1].name
    return "server"


def main() -> None:
    """Print a line for each concurrency."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("address")
    parser.add_argument("--model", default="search")
    parser.add_argument("--rows", type=int, default=1, help="texts of a request; default: %(default)s")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--rate", type=float, help="open loop: requests per second, instead of --concurrency")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--client", choices=["raw", "tritonclient"], default="raw")
    parser.add_argument(
        "--pid", type=int, help="of a server on this machine: its processor time is printed as well"
    )
    options = parser.parse_args()
    texts = answers() if options.model == "document_encoder" else questions()
    built = list(requests(options.model, texts, options.rows))
    client = options.client
    if options.address.startswith("http://"):
        client, built = "http", [http_request(options.model, [text], options.address) for text in texts]
    source = iter(built)
    for concurrency in [1] if options.rate else options.concurrency:
        load = Load(source, concurrency, options.rate)
        try:
            (found,) = run(options.address, load, seconds=options.seconds, client=client, pid=options.pid)
        except triton.InferenceServerException as failure:
            parser.error(f"{options.address}: {failure.message()}")
        if not found.latencies and not found.errors:
            parser.error(f"{len(texts):,} texts are used up; ask for fewer seconds")
        how = f"{options.rate:g} a second" if options.rate else f"concurrency {concurrency}"
        print(f"{how}: {json.dumps(found.summary())}", flush=True)


if __name__ == "__main__":
    main()
