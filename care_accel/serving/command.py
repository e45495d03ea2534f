"""Command line: ``care-accel serve``."""

from __future__ import annotations

import argparse
import functools
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_accel.encoding.loading.sources import DEFAULT
from care_accel.errors import CareError
from care_accel.folders import temporary_folder

if TYPE_CHECKING:
    from care_accel.serving.tritonserver.server import Server

_LOOPBACK = "127.0.0.1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the server to a parser."""
    parser.add_argument(
        "--install",
        action="store_true",
        help="install NVIDIA's server and exit; otherwise the first start installs it",
    )
    what = parser.add_argument_group("what to serve")
    what.add_argument(
        "--repository",
        type=Path,
        metavar="DIR",
        help="an existing model repository, instead of one generated for --model",
    )
    what.add_argument("--model", help=f"folder, hub name or name of an embedded model; default: {DEFAULT}")
    what.add_argument("--preset", help="preset of folders without care.json: care or sentence-transformers")
    what.add_argument(
        "--index",
        type=Path,
        metavar="DIR",
        help="saved Retriever or ExactIndex; default: the demo documents",
    )
    what.add_argument(
        "--collection",
        metavar="COLLECTION",
        help="a collection (care-accel index): its folder, or its address in an object store, whose keys are taken from the "
        "environment; changes are followed, and its model is the default of --model",
    )
    what.add_argument(
        "--several-tenants",
        action="store_true",
        help="disable the query vector cache, whose response times reveal what other tenants asked",
    )
    what.add_argument(
        "--in-process",
        action=argparse.BooleanOptionalAction,
        help="run search in the server's own process instead of one beside it, which takes a fifth off a small network's "
        "searches; default: if the query encoder runs on the native engine, and without --gpu",
    )
    what.add_argument("--gpu", action="store_true", help="run an instance of each model on every GPU")
    where = parser.add_argument_group("where to listen")
    where.add_argument("--host", default=_LOOPBACK, help="address to listen on; default: %(default)s")
    where.add_argument(
        "--http-port", "--port", type=int, default=8000, metavar="N", help="default: %(default)s"
    )
    where.add_argument("--grpc-port", type=int, default=8001, metavar="N", help="default: %(default)s")
    where.add_argument("--metrics-port", type=int, default=8002, metavar="N", help="default: %(default)s")
    where.add_argument("--shared-memory", action="store_true", help="allow clients to register shared memory")
    where.add_argument("--log", type=Path, metavar="FILE", help="default: a temporary file")
    where.add_argument(
        "--timeout",
        type=float,
        default=600,
        metavar="SECONDS",
        help="timeout of loading; default: %(default)s",
    )


def run(options: argparse.Namespace, write: Callable[..., None] | None = None, what: str = "") -> None:
    """Serve until SIGTERM or Ctrl-C.

    Parameters
    ----------
    options : argparse.Namespace
    write : callable, optional
        Writes another repository than `write_repository`, whose parameters it has.
    what : str
        What such a repository serves, for the line that says that it is ready.
    """
    from care_accel.serving.tritonserver.install import install
    from care_accel.serving.tritonserver.program import find_program

    if options.install:
        _say(f"the server is in {install(_say)}")
        return
    from care_accel.serving.repository.python_backend import write_repository
    from care_accel.serving.tritonserver.in_process import asks, why_not
    from care_accel.serving.tritonserver.server import Server

    for name in ("model", "preset", "index", "collection", "gpu", "several_tenants", "in_process"):
        if options.repository and getattr(options, name):
            raise CareError(
                f"give --repository or --{name.replace('_', '-')}, not both: a repository has its own, set by care-accel "
                "export --repository"
            )
    if options.collection and options.index:
        raise CareError("give --collection or --index, not both: one search has one of them")
    served = _of_collection(options) if options.collection else {"preset": options.preset}
    program = find_program(install_with=_say)
    if options.in_process and (reason := why_not(program)):
        raise CareError(f"search cannot run in the server's process: {reason}; leave out --in-process")
    if options.in_process is None and (options.gpu or why_not(program)):
        options.in_process = False
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with temporary_folder("care-serve-") as temporary:
        repository = options.repository
        if repository is None:
            repository = temporary / "model_repository"
            (write or functools.partial(write_repository, in_process=options.in_process))(
                repository,
                **{"model": options.model or DEFAULT} | served,
                index=options.collection or options.index,
                gpu=options.gpu,
                several_tenants=options.several_tenants,
            )
        if options.in_process is None and asks(repository):
            _say("search runs in the server's own process; --no-in-process gives it one beside it")
        server = Server(
            repository,
            http=options.http_port,
            grpc=options.grpc_port,
            metrics=options.metrics_port,
            host=options.host,
            log=options.log,
            shared_memory=options.shared_memory,
        )
        if server.program.bundled:
            _say(
                "using the server of the wheel nvidia-pytriton (2.51): for development only, do not expose it to a network"
            )
        try:
            server.start(options.timeout, progress=_say, ended=ended)
            if not ended.is_set():
                _print_ready(server, what)
            # Not ended.wait(): the signal handler would deadlock on its lock.
            while not ended.is_set():
                if server.died():
                    server.keep_log()
                    raise CareError(f"the server exited unexpectedly; see its log {server.log}")
                time.sleep(0.2)
        finally:
            code = server.stop()
        _say(f"stopped (exit code {code})")


def _of_collection(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of `DualEncoder.from_pretrained` for the model of a collection, or of the one that is given."""
    from care_accel.collection import Collection

    if options.model:
        return {"preset": options.preset}
    found = Collection.open(options.collection)
    _ = found.model  # told now, if it cannot be loaded
    return found.manifest.load


def _print_ready(server: Server, what: str) -> None:
    line = f"ready: http://{server.http}  grpc://{server.grpc}  metrics: http://{server.metrics}/metrics"
    if what:
        print(f"{line}  {what}", flush=True)
        return
    body = '{"inputs": [{"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], "data": ["血压高怎么办"]}]}'
    print(
        f"{line}\ncurl -s http://{server.http}/v2/models/search/infer -d '{body}'",
        flush=True,
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
