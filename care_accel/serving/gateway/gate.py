"""Who may come in: by which name, with which token, how often, and how many at once."""

from __future__ import annotations

import hmac
import ipaddress
import math
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from care_accel.serving.gateway.envelope import Note, note_of
from care_accel.serving.gateway.errors import ApiError
from care_accel.serving.gateway.meters import Meters
from care_accel.serving.gateway.rate import RateLimit
from care_accel.serving.gateway.settings import Settings

# Probes call by address and learn nothing but that it is alive.
_ANY_HOST = frozenset({"/healthz", "/readyz"})


class Gate:
    """The layer that refuses before any work is done.

    Parameters
    ----------
    app : ASGI application
    settings : Settings
    meters : Meters
    rate : RateLimit, optional
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, meters: Meters, rate: RateLimit | None = None
    ) -> None:
        self._app, self._settings, self._meters = app, settings, meters
        self._rate = rate or RateLimit(settings.rate, settings.burst)
        self._tokens = [token.encode() for token in settings.tokens]
        self._in_work = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or raise the `ApiError` that refuses it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, note, headers = scope["path"], note_of(scope), Headers(scope=scope)
        if path not in _ANY_HOST:
            self._check_host(headers)
        api = path.startswith("/v1/")
        if api or path == "/metrics":
            caller = self._caller(note, headers)
            if api:
                self._check_rate(caller)
        if api and scope["method"] == "POST":
            with self._place():
                await self._app(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refused(self, reason: str, error: ApiError) -> ApiError:
        self._meters.rejected.labels(reason).inc()
        return error

    def _check_host(self, headers: Headers) -> None:
        given = headers.getlist("host")
        if len(given) != 1 or _name(given[0]) not in self._settings.hosts:
            raise self._refused(
                "host",
                ApiError(
                    400,
                    "unknown_host",
                    "this gateway is not called by that name; start it with --allow-host NAME if it should be",
                ),
            )

    def _caller(self, note: Note, headers: Headers) -> str:
        """Return whose bucket the request is counted in, once its token is right."""
        address = f"address:{_network(note.caller)}"
        if not self._tokens:
            return address
        scheme, _, given = headers.get("authorization", "").partition(" ")
        offered = given.strip().encode("latin-1", "replace") if scheme.lower() == "bearer" else b""
        # All are compared, each in constant time: how long it takes tells nothing.
        right = [hmac.compare_digest(offered, token) for token in self._tokens]
        if any(right):
            note.caller = f"token{right.index(True) + 1}@{note.caller}"
            return f"token:{right.index(True)}"
        self._check_rate(address)  # guessing is limited as well
        raise self._refused(
            "token",
            ApiError(
                401,
                "invalid_token",
                "send the gateway's token: Authorization: Bearer TOKEN",
                headers={"WWW-Authenticate": "Bearer"},
            ),
        )

    def _check_rate(self, caller: str) -> None:
        if seconds := self._rate.wait(caller):
            raise self._refused(
                "rate",
                ApiError(
                    429,
                    "rate_limit_exceeded",
                    f"more than {self._settings.rate:g} requests a second; wait and try again",
                    headers={"Retry-After": str(math.ceil(seconds))},
                ),
            )

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Hold one of the places for requests in work; there is no queue for them, the inference server has one."""
        if self._in_work >= self._settings.concurrency:
            raise self._refused(
                "concurrency",
                ApiError(
                    503, "overloaded", "too many requests at once; try again", headers={"Retry-After": "1"}
                ),
            )
        self._in_work += 1
        self._meters.in_flight.inc()
        try:
            yield
        finally:
            self._in_work -= 1
            self._meters.in_flight.dec()


def _name(host: str) -> str:
    """Return the name in a ``Host`` header: lower case, without port and brackets."""
    host = host.strip().lower()
    name = host[1:].partition("]")[0] if host.startswith("[") else host.rpartition(":")[0] or host
    return name.removesuffix(".")


def _network(address: str) -> str:
    # Whoever has an IPv6 address has 2^64 of them.
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
