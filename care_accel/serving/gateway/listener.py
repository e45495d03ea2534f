"""Listening sockets and the ASGI server."""

from __future__ import annotations

import ipaddress
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from care_accel.errors import CareError

_MAX_CONNECTIONS = 1024  # open connections; further ones are answered with 503


def serve(app: ASGIApp, sockets: list[socket.socket], *, timeout: float, trusted: list[str]) -> None:
    """Serve an application on sockets until SIGTERM or Ctrl-C.

    Parameters
    ----------
    app : ASGI application
    sockets : list of socket
        Bound and listening.
    timeout : float
        Graceful shutdown timeout in seconds.
    trusted : list of str
        Addresses of trusted proxies.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # it would log URLs with query strings
        server_header=False,
        ws="none",
        lifespan="on",
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_graceful_shutdown=max(1, round(timeout)),
        proxy_headers=bool(trusted),
        forwarded_allow_ips=trusted,
    )
    with _graceful_shutdown():
        uvicorn.Server(config).run(sockets=sockets)


@contextmanager
def _graceful_shutdown() -> Iterator[None]:
    """Exit with code 0 on SIGTERM: uvicorn raises the signal again after its shutdown."""
    if threading.current_thread() is not threading.main_thread():  # only it may set handlers
        yield
        return
    former = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def is_loopback(host: str) -> bool:
    """Return whether a host resolves to loopback addresses only."""
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        raise CareError(f"--host {host}: the name cannot be resolved") from None
    return bool(host) and all(ipaddress.ip_address(one.partition("%")[0]).is_loopback for one in found)


@contextmanager
def listen(host: str, port: int) -> Iterator[list[socket.socket]]:
    """Listen on a TCP port, for `serve`; 0 selects a free one.

    Raises
    ------
    CareError
        The port is in use, or the address does not belong to this machine.
    """
    if not 0 <= port <= 65535:
        raise CareError(f"--port {port}: must be from 0 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With an explicit protocol: asyncio sets TCP_NODELAY only on sockets whose protocol is IPPROTO_TCP, which
    # accepted ones inherit. Otherwise Nagle's algorithm and delayed ACKs delay a response's body by 40 ms.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((host, port))
            one.listen(2048)
        except OSError as cause:
            raise CareError(f"--host {host} --port {port}: cannot listen there: {cause.strerror}") from None
        yield [one]


def url_of(sockets: list[socket.socket]) -> str:
    """Return the URL of listening sockets, without a trailing slash."""
    host, port = sockets[0].getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
