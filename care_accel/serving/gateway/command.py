"""The command line of the gateway: ``care-accel gateway``."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from pathlib import Path

from care_accel.errors import CareError
from care_accel.serving.gateway.settings import LOCAL_NAMES, TOKEN_VARIABLE, Settings, read_tokens

_DEFAULTS = Settings()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the gateway to a parser."""
    parser.add_argument(
        "--server", default="localhost:8001", help="the inference server's gRPC address; default: %(default)s"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="where to listen; beyond loopback with a token only; default: %(default)s",
    )
    parser.add_argument("--port", type=int, default=8080, help="0 takes a free one; default: %(default)s")
    access = parser.add_argument_group("who may call")
    access.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"bearer tokens, one a line; without it the token is in the environment's {TOKEN_VARIABLE}",
    )
    access.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name by which it may be called, beside the one it listens on; may be repeated",
    )
    access.add_argument(
        "--trusted-proxy",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="a proxy whose X-Forwarded-For tells who calls; may be repeated",
    )
    limits = parser.add_argument_group("limits", "what is beyond one is refused")
    for name, what in (
        ("max_body", "bytes of a request"),
        ("max_inputs", "texts of a request"),
        ("max_text", "bytes of a text"),
        ("max_k", "hits a query"),
        ("max_hits", "hits of a response"),
        ("burst", "requests at once after a rest"),
        ("concurrency", "requests in work at once"),
    ):
        _limit(limits, name, int, what)
    _limit(
        limits,
        "rate",
        float,
        "requests a second by a token, or by an address where none is asked for; 0: any",
    )
    _limit(limits, "timeout", float, "seconds for the inference server to answer")
    parser.add_argument(
        "--log-texts", action="store_true", help="write the texts of requests to the log: patients' words"
    )


def _limit(group: argparse._ArgumentGroup, name: str, kind: type, what: str) -> None:
    group.add_argument(
        f"--{name.replace('_', '-')}",
        type=kind,
        default=getattr(_DEFAULTS, name),
        metavar="N",
        help=f"{what}; default: %(default)s",
    )


def run(options: argparse.Namespace) -> None:
    """Listen until SIGTERM or Ctrl-C; requests in work are finished then."""
    tokens = read_tokens(options.token_file)
    settings = Settings(
        tokens=tokens,
        hosts=LOCAL_NAMES | {name.lower().strip("[]") for name in (options.host, *options.allow_host)},
        log_texts=options.log_texts,
        **{
            name: getattr(options, name)
            for name in (
                *("max_body", "max_inputs", "max_text", "max_k", "max_hits"),
                *("burst", "concurrency", "rate", "timeout"),
            )
        },
    )
    try:
        from care_accel.encoding.runtimes.server import AsyncServerClient
        from care_accel.serving.gateway.app import create_app
        from care_accel.serving.gateway.listening import address_of, is_loopback, listening, serve
    except ImportError as missing:
        raise CareError(
            f"{missing.name} is not installed: pip install 'care-accel[gateway,server]'"
        ) from None
    if not tokens and not is_loopback(options.host):
        raise CareError(
            f"--host {options.host} is reachable from other machines and no token is set; put one into "
            f"{TOKEN_VARIABLE} or --token-file (openssl rand -hex 32 makes one), or listen on 127.0.0.1"
        )
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    logging.getLogger("care_accel.serving.gateway").setLevel(logging.INFO)
    # A server that starts anew is waited for; one whose queue is full is its callers' to try again.
    client = AsyncServerClient(options.server, timeout=settings.timeout, retries=1)
    app = create_app(settings, client)
    with listening(options.host, options.port) as sockets:
        address = address_of(sockets)
        print(f"gateway: {address}/ in front of {options.server}", flush=True)
        print(
            "token: asked for" if tokens else "token: none asked for; only this machine can call", flush=True
        )
        if not (options.allow_host or is_loopback(options.host)):
            print(f"names: {options.host} alone; --allow-host NAME adds what others call it by", flush=True)
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
