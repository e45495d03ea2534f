"""Admission control: Host check, authentication and rate limit."""

from __future__ import annotations

import hmac
import ipaddress
import math

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from care_accel.serving.gateway.errors import ApiError
from care_accel.serving.gateway.metrics import Metrics
from care_accel.serving.gateway.middleware import RequestLog, request_log_of
from care_accel.serving.gateway.rate_limit import RateLimiter
from care_accel.serving.gateway.settings import Settings

# Health checks may use the IP address; their responses reveal nothing.
_ANY_HOST_PATHS = frozenset({"/healthz", "/readyz"})


class AdmissionMiddleware:
    """ASGI middleware that rejects requests before any work is done.

    Parameters
    ----------
    app : ASGI application
    settings : Settings
    metrics : Metrics
    rate : RateLimiter, optional
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, metrics: Metrics, rate: RateLimiter | None = None
    ) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._rate = rate or RateLimiter(settings.rate, settings.burst)
        self._tokens = [token.encode() for token in settings.tokens]
        self._write_tokens = [token.encode() for token in settings.write_tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request, or raise the `ApiError` that rejects it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, entry, headers = scope["path"], request_log_of(scope), Headers(scope=scope)
        if path not in _ANY_HOST_PATHS:
            self._check_host(headers)
        api = path.startswith("/v1/")
        if api or path == "/metrics":
            caller = self._caller(entry, headers, writes=_writes(scope))
            if api:
                self._check_rate(caller)
        await self._app(scope, receive, send)

    def _refused(self, reason: str, error: ApiError) -> ApiError:
        self._metrics.rejected.labels(reason).inc()
        return error

    def _check_host(self, headers: Headers) -> None:
        given = headers.getlist("host")
        if len(given) != 1 or _name(given[0]) not in self._settings.hosts:
            raise self._refused(
                "host",
                ApiError(
                    400,
                    "unknown_host",
                    "the Host header is not allowed; start the gateway with --allow-host NAME to allow it",
                ),
            )

    def _caller(self, entry: RequestLog, headers: Headers, *, writes: bool) -> str:
        """Authenticate; return the key of the caller's rate limit bucket."""
        address = f"address:{_network(entry.caller)}"
        writes = writes and bool(self._write_tokens)  # otherwise nothing can be written
        if not self._tokens and not writes:
            return address
        scheme, _, given = headers.get("authorization", "").partition(" ")
        offered = given.strip().encode("latin-1", "replace") if scheme.lower() == "bearer" else b""
        # All are compared, each in constant time, against timing attacks.
        may_write = [hmac.compare_digest(offered, token) for token in self._write_tokens]
        may_read = [hmac.compare_digest(offered, token) for token in self._tokens]
        for kind, right in (("write", may_write), ("token", may_read)):
            if not any(right):
                continue
            number = right.index(True)
            entry.caller = f"{kind}{number + 1}@{entry.caller}"
            if writes and kind == "token":
                self._check_rate(f"token:{number}")
                raise self._refused(
                    "token",
                    ApiError(403, "write_token_required", "this token may only read; send a write token"),
                )
            return f"{kind}:{number}"
        self._check_rate(address)  # also limits guessing
        raise self._refused(
            "token",
            ApiError(
                401,
                "invalid_token",
                "missing or invalid token; send Authorization: Bearer TOKEN",
                headers={"WWW-Authenticate": "Bearer"},
            ),
        )

    def _check_rate(self, caller: str) -> None:
        if seconds := self._rate.acquire(caller):
            raise self._refused(
                "rate",
                ApiError(
                    429,
                    "rate_limit_exceeded",
                    f"rate limit of {self._settings.rate:g} requests per second exceeded; retry later",
                    headers={"Retry-After": str(math.ceil(seconds))},
                ),
            )


def _writes(scope: Scope) -> bool:
    return scope["path"].startswith("/v1/documents") and scope["method"] not in ("GET", "HEAD")


def _name(host: str) -> str:
    """Return the name in a ``Host`` header: lower case, without port and brackets."""
    host = host.strip().lower()
    name = host[1:].partition("]")[0] if host.startswith("[") else host.rpartition(":")[0] or host
    return name.removesuffix(".")


def _network(address: str) -> str:
    # An IPv6 client usually has a /64 network.
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
