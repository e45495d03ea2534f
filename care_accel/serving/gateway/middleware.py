"""Outermost middleware: request id, access log, metrics, security headers and error responses."""

from __future__ import annotations

import json
import logging
import re
import traceback
from dataclasses import dataclass, field
from time import perf_counter
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from care_accel.serving.gateway.errors import INTERNAL, ApiError
from care_accel.serving.gateway.metrics import Metrics

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_CLIENT_CLOSED = 499  # nginx's status for a client that disconnected; logged only

# No CORS headers: pages of other origins cannot read responses.
_SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


@dataclass
class RequestLog:
    """Access log entry of a request; routes fill it in."""

    id: str
    route: str
    caller: str = "-"
    texts: int = 0
    tokens: int = 0
    payload: list[str] | None = None
    error: str | None = None
    started: float = field(default_factory=perf_counter)


def request_log_of(scope: Scope) -> RequestLog:
    """Return the access log entry of a request."""
    entry: RequestLog = scope["care_accel.request_log"]
    return entry


class RequestMiddleware:
    """ASGI middleware: exactly one response, one access log line and one metrics count per request.

    Parameters
    ----------
    app : ASGI application
    metrics : Metrics
    routes : collection of str
        Paths allowed in the log and in labels, ``{name}`` at their ends for any rest; others are written as ``other``, as
        a URL may contain patients' words.
    log_texts : bool
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: frozenset[str], *, log_texts: bool) -> None:
        self._app, self._metrics, self._log_texts = app, metrics, log_texts
        self._routes = {route for route in routes if "{" not in route}
        self._prefixes = {route.partition("{")[0]: route for route in routes - self._routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        entry = RequestLog(
            _request_id(scope), self._route(scope["path"]), caller=(scope["client"] or ("-",))[0]
        )
        scope["care_accel.request_log"] = entry
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(_SECURITY)
                headers["X-Request-ID"] = entry.id
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except ApiError as error:
            entry.error = error.code
            await error.response()(scope, receive, send_with_headers)
        except ClientDisconnect:
            entry.error = "disconnected"
            status = _CLIENT_CLOSED
        except Exception as error:
            # Traceback and type, but not the message, which may quote a text.
            frames = "".join(traceback.format_tb(error.__traceback__))
            log.error("id=%s failed with %s\n%s", entry.id, type(error).__name__, frames.rstrip())
            if not status:
                await INTERNAL.response()(scope, receive, send_with_headers)
        finally:
            self._write(entry, scope, status)

    def _route(self, path: str) -> str:
        if path in self._routes:
            return path
        return next((route for start, route in self._prefixes.items() if path.startswith(start)), "other")

    def _write(self, entry: RequestLog, scope: Scope, status: int) -> None:
        seconds = perf_counter() - entry.started
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.requests.labels(entry.route, method, str(status or _CLIENT_CLOSED)).inc()
        self._metrics.seconds.labels(entry.route).observe(seconds)
        log.info(
            "id=%s %s %s %d %.1f ms caller=%s texts=%d tokens=%d%s",
            entry.id,
            method,
            entry.route,
            status or _CLIENT_CLOSED,
            1e3 * seconds,
            entry.caller,
            entry.texts,
            entry.tokens,
            f" error={entry.error}" if entry.error else "",
        )
        if self._log_texts and entry.payload is not None:
            # As JSON: a line break in a text must not forge a log line.
            log.info("id=%s words=%s", entry.id, json.dumps(entry.payload, ensure_ascii=True))


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid4().hex
