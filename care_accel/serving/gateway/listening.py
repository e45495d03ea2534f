"""Sockets, and serving on them until somebody says stop."""

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

_CONNECTIONS = 1024  # open ones; a caller beyond them is refused whatever it wants


def serve(app: ASGIApp, sockets: list[socket.socket], *, timeout: float, trusted: list[str]) -> None:
    """Serve an application on sockets until SIGTERM or Ctrl-C.

    Parameters
    ----------
    app : ASGI application
    sockets : list of socket
        Bound and listening.
    timeout : float
        Seconds that requests in work are given at the end.
    trusted : list of str
        Addresses of proxies.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # it would write whole addresses, with what stands behind their question mark
        server_header=False,
        ws="none",
        lifespan="on",
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=max(1, round(timeout)),
        proxy_headers=bool(trusted),
        forwarded_allow_ips=trusted,
    )
    with _quiet_end():
        uvicorn.Server(config).run(sockets=sockets)


@contextmanager
def _quiet_end() -> Iterator[None]:
    """Make SIGTERM an orderly end with code 0: uvicorn raises it once more after it has shut down."""
    if threading.current_thread() is not threading.main_thread():  # who alone may set handlers
        yield
        return
    former = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def is_loopback(host: str) -> bool:
    """Tell whether every address that a host stands for is reachable from this machine alone."""
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        raise CareError(f"--host {host}: no address of this machine has that name") from None
    return bool(host) and all(ipaddress.ip_address(one.partition("%")[0]).is_loopback for one in found)


@contextmanager
def listening(host: str, port: int) -> Iterator[list[socket.socket]]:
    """Listen on a TCP port, for `serve`; 0 is a free one.

    Raises
    ------
    CareError
        The port is taken, or the address is none of this machine.
    """
    if not 0 <= port <= 65535:
        raise CareError(f"--port {port}: must lie between 0 and 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol named: asyncio switches Nagle's algorithm off for sockets that say they are TCP's, and
    # accepted ones say what this one does. With it on, a response's body waits 40 ms for the other side's word
    # that its headers have come.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((host, port))
            one.listen(2048)
        except OSError as cause:
            raise CareError(f"--host {host} --port {port}: cannot listen there: {cause.strerror}") from None
        yield [one]


def address_of(sockets: list[socket.socket]) -> str:
    """Return the URL of what listens, without a slash at its end."""
    host, port = sockets[0].getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
