"""Command line: ``care-accel serve``, by an inference server, of a shard too, or with ``--cluster`` by shards on many machines."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from care_accel.errors import CareError
from care_accel.serving import command as serving

# Options of the inference server that have no meaning for shards.
_ALONE = (
    *("install", "repository", "preset", "index", "several_tenants", "in_process"),
    *("gpu", "shared_memory", "log"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the server to a parser."""
    serving.add_arguments(parser)
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="serve a part of --collection: 2/3 is the second of three; care-accel gateway asks the servers of all parts",
    )
    many = parser.add_argument_group("many machines (extra cluster)")
    many.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="search --collection by shards on a Ray cluster: its address, or auto for that of this machine; the router is this "
        "process, and listens on --grpc-port and --metrics-port",
    )
    many.add_argument("--shards", type=int, metavar="N", help="parts of the collection")
    many.add_argument(
        "--replicas", type=int, metavar="R", help="processes that hold the same part; default: 1"
    )
    many.add_argument(
        "--gpus-per-shard", type=float, metavar="G", help="of each process; the scan runs there; default: 0"
    )
    many.add_argument(
        "--cpus-per-shard", type=float, metavar="C", help="of each process, and its threads; default: 1"
    )
    many.add_argument(
        "--shard-seconds",
        type=float,
        metavar="S",
        help="seconds without an answer after which a shard is away; default: 10",
    )
    many.add_argument(
        "--require-all",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="refuse searches while a shard is away; otherwise answers of the others say what share of the documents was "
        "searched; default: refuse",
    )
    many.add_argument(
        "--keep", action="store_true", help="leave the shards running at the end, for the next start"
    )


def run(options: argparse.Namespace) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    if options.cluster is None:
        for name in ("shards", "replicas", "gpus_per_shard", "cpus_per_shard", "shard_seconds", "keep"):
            if getattr(options, name):
                raise CareError(f"--{name.replace('_', '-')} needs --cluster")
        if not options.require_all:
            raise CareError("--no-require-all needs --cluster")
        if options.shard is None:
            serving.run(options)
        else:
            _serve_part(options)
        return
    for name in (*_ALONE, "shard"):
        if getattr(options, name):
            raise CareError(f"--{name.replace('_', '-')} works without --cluster only")
    if options.collection is None or options.shards is None:
        raise CareError("--cluster needs --collection and --shards")
    _serve(options)


def _serve_part(options: argparse.Namespace) -> None:
    """Serve a shard by an inference server."""
    from care_accel.cluster.servers.repository import read_shard, write_shard_repository

    number, of = read_shard(options.shard)
    if options.in_process:
        raise CareError("--in-process is for search, which a shard has not")
    if options.collection is None:
        raise CareError("--shard needs --collection: the collection of which a part is served")

    def write(repository: Path, *, index: str, **more: Any) -> None:
        write_shard_repository(repository, index, (number, of), **more)

    serving.run(options, write, f"shard {number + 1}/{of}")


def _serve(options: argparse.Namespace) -> None:
    from care_accel.cluster.shards.calls import Limits
    from care_accel.cluster.shards.front import Front
    from care_accel.cluster.shards.metrics import Metrics
    from care_accel.cluster.shards.serving import ShardedCollection

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    limits = Limits(start=options.timeout)
    if options.shard_seconds is not None:
        limits = Limits(start=options.timeout, shard=options.shard_seconds)
    replicas = 1 if options.replicas is None else options.replicas
    searched = ShardedCollection.serve(
        options.collection,
        cluster=options.cluster,
        shards=options.shards,
        replicas=replicas,
        gpus=options.gpus_per_shard or 0.0,
        cpus=1.0 if options.cpus_per_shard is None else options.cpus_per_shard,
        model=options.model,
        limits=limits,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):  # only now: Ray sets its own when it connects
        signal.signal(number, lambda *_: ended.set())
    try:
        metrics = Metrics(searched)
        with metrics.serve(options.host, options.metrics_port) as page:
            front = Front(
                searched,
                f"{options.host}:{options.grpc_port}",
                require_all=options.require_all,
                metrics=metrics,
            )
            print(
                f"ready: grpc://{front.address}  metrics: {page}  {options.shards} shards, {replicas} replicas each, version "
                f"{searched.version}",
                flush=True,
            )
            while not ended.wait(0.2):  # with a limit, or the signal would wait for the lock
                pass
            front.stop()
    finally:
        if options.keep:
            searched.close()
        else:
            searched.stop()
    print("stopped", file=sys.stderr, flush=True)
