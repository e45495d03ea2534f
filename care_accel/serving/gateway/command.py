"""Command line: ``care-accel gateway``."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from care_accel.errors import CareError
from care_accel.serving.gateway.settings import (
    LOCAL_NAMES,
    TOKEN_VARIABLE,
    WRITE_TOKEN_VARIABLE,
    Settings,
    read_tokens,
)

if TYPE_CHECKING:
    from care_accel.serving.gateway.documents.store import DocumentStore
    from care_accel.serving.gateway.upstream import Backend

_DEFAULTS = Settings()
_SERVER = "localhost:8001"

# Of the addresses of servers and the seconds of a request, a client.
Connect = Callable[[Sequence[str], float], "Backend"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the gateway to a parser."""
    parser.add_argument(
        "--server",
        action="append",
        metavar="ADDRESS",
        help="address of the inference server: its gRPC port, as in localhost:8001, or its HTTP port, as in "
        f"http://localhost:8000, which is faster; default: {_SERVER}",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; other than loopback requires a token; default: %(default)s",
    )
    parser.add_argument("--port", type=int, default=8080, help="0 for a free port; default: %(default)s")
    served = parser.add_argument_group("documents")
    served.add_argument(
        "--collection",
        metavar="COLLECTION",
        help="the collection that the server searches, to read its documents: its folder, or its address in an object store",
    )
    served.add_argument(
        "--writable",
        action="store_true",
        help="let callers with a write token insert, replace and delete documents of the collection",
    )
    access = parser.add_argument_group("access control")
    access.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"bearer tokens, one per line; default: the environment variable {TOKEN_VARIABLE}",
    )
    access.add_argument(
        "--write-token-file",
        type=Path,
        metavar="FILE",
        help=f"bearer tokens that may change documents; default: the environment variable {WRITE_TOKEN_VARIABLE}",
    )
    access.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="additional allowed Host header; repeatable",
    )
    access.add_argument(
        "--trusted-proxy",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="proxy whose X-Forwarded-For is trusted; repeatable",
    )
    limits = parser.add_argument_group("limits", "requests beyond a limit are rejected")
    for name, what in (
        ("max_body", "bytes of a request body"),
        ("max_inputs", "texts per request"),
        ("max_text", "bytes of a text"),
        ("max_documents", "documents of a write"),
        ("max_k", "hits per query"),
        ("max_hits", "hits per response"),
        ("burst", "token bucket capacity in requests"),
        ("concurrency", "requests in flight"),
    ):
        _limit(limits, name, int, what)
    _limit(
        limits,
        "rate",
        float,
        "requests per second for each token, or for each address without authentication; 0: no limit",
    )
    _limit(limits, "timeout", float, "timeout of the inference server in seconds, for each 256 texts")
    parser.add_argument(
        "--log-texts", action="store_true", help="log the texts of requests, which are patients' words"
    )


def _limit(group: argparse._ArgumentGroup, name: str, kind: type, what: str) -> None:
    group.add_argument(
        f"--{name.replace('_', '-')}",
        type=kind,
        default=getattr(_DEFAULTS, name),
        metavar="N",
        help=f"{what}; default: %(default)s",
    )


def run(options: argparse.Namespace, connect: Connect | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish the requests in flight.

    Parameters
    ----------
    options : argparse.Namespace
    connect : callable, optional
        Returns the client of several servers; by default there is one server.
    """
    servers: list[str] = options.server or [_SERVER]
    tokens = read_tokens(options.token_file)
    settings = Settings(
        tokens=tokens,
        write_tokens=_write_tokens(options),
        hosts=LOCAL_NAMES | {name.lower().strip("[]") for name in (options.host, *options.allow_host)},
        log_texts=options.log_texts,
        **{
            name: getattr(options, name)
            for name in (
                *("max_body", "max_inputs", "max_text", "max_documents", "max_k", "max_hits"),
                *("burst", "concurrency", "rate", "timeout"),
            )
        },
    )
    try:
        from care_accel.encoding.runtimes.server import AsyncServerClient
        from care_accel.serving.gateway.app import create_app
        from care_accel.serving.gateway.listener import is_loopback, listen, serve, url_of
    except ImportError as missing:
        raise CareError(
            f"{missing.name} is not installed: pip install 'care-accel[gateway,server]'"
        ) from None
    if not tokens and not is_loopback(options.host):
        raise CareError(
            f"--host {options.host} is reachable from other machines and no token is set; set one by {TOKEN_VARIABLE} or "
            "--token-file (generate it with openssl rand -hex 32), or listen on 127.0.0.1"
        )
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    logging.getLogger("care_accel.serving.gateway").setLevel(logging.INFO)
    client: Backend
    if connect is None:
        # One retry bridges a restart of the server; if its queue is full, the client has to retry.
        client = AsyncServerClient(servers[0], timeout=settings.timeout, retries=1)
    else:
        client = connect(servers, settings.timeout)
    documents = _open_documents(options, settings, servers[0])
    app = create_app(settings, client, documents=documents)
    with listen(options.host, options.port) as sockets:
        address = url_of(sockets)
        print(f"gateway: {address}/ in front of {', '.join(servers)}", flush=True)
        print(
            "token: required" if tokens else "token: not required; reachable from this machine only",
            flush=True,
        )
        if documents is not None:
            access = "read and written, with a write token" if documents.writable else "read"
            print(f"documents: of {options.collection}, can be {access}", flush=True)
        if not (options.allow_host or is_loopback(options.host)):
            print(f"allowed hosts: {options.host}; add others with --allow-host NAME", flush=True)
        token = (
            f"$(head -n 1 {shlex.quote(str(options.token_file))})"
            if options.token_file
            else f"${TOKEN_VARIABLE}"
        )
        header = f' -H "Authorization: Bearer {token}"' if tokens else ""
        print(
            f"try: curl {address}/v1/search{header} -H 'Content-Type: application/json' "
            '-d \'{"query": "高血压怎么治", "k": 3}\'',
            flush=True,
        )
        serve(app, sockets, timeout=settings.timeout, trusted=options.trusted_proxy)


def _write_tokens(options: argparse.Namespace) -> tuple[str, ...]:
    """Return the tokens that may write; none if nothing is to be written."""
    if not options.writable:
        if options.write_token_file is not None:
            raise CareError("--write-token-file needs --writable")
        return ()
    if options.collection is None:
        raise CareError("--writable needs --collection DIR: the collection that is written to")
    tokens = read_tokens(options.write_token_file, variable=WRITE_TOKEN_VARIABLE, option="--write-token-file")
    if not tokens:
        raise CareError(
            f"--writable needs a token of its own for writing; set one by {WRITE_TOKEN_VARIABLE} or --write-token-file "
            "(generate it with openssl rand -hex 32)"
        )
    return tokens


def _open_documents(options: argparse.Namespace, settings: Settings, server: str) -> DocumentStore | None:
    """Open the collection, if there is one; the server, which encodes its documents, need not run yet."""
    if options.collection is None:
        return None
    from care_accel.collection import Collection

    collection = Collection.open(options.collection)
    from care_accel.encoding.runtimes.server import ServerClient
    from care_accel.serving.gateway.documents.encoder import SteadyDualEncoder
    from care_accel.serving.gateway.documents.store import DocumentStore

    def connect() -> SteadyDualEncoder:
        return SteadyDualEncoder(ServerClient(server, timeout=settings.timeout))

    return DocumentStore(
        collection,
        connect if options.writable else None,
        patience=settings.timeout,
        max_text=settings.max_text,
    )
