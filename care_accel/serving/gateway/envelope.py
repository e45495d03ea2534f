"""Around every request: its id, its line in the log, its place in the metrics, the headers of its response."""

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
from care_accel.serving.gateway.meters import Meters

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_GONE = 499  # nginx's number for a caller who did not wait; nobody receives it

# No CORS header is among them: pages of other origins read nothing.
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
class Note:
    """What is known of a request for its line in the log; routes fill it in."""

    id: str
    route: str
    caller: str = "-"
    texts: int = 0
    tokens: int = 0
    words: list[str] | None = None
    error: str | None = None
    started: float = field(default_factory=perf_counter)


def note_of(scope: Scope) -> Note:
    """Return the note of a request."""
    note: Note = scope["care_accel.note"]
    return note


class Envelope:
    """The outermost layer: whatever happens inside, one response, one line, one count.

    Parameters
    ----------
    app : ASGI application
    meters : Meters
    routes : collection of str
        Paths that may stand in the log and in labels; any other is written as ``other``, for
        an address can hold a patient's words as well.
    log_texts : bool
    """

    def __init__(self, app: ASGIApp, meters: Meters, routes: frozenset[str], *, log_texts: bool) -> None:
        self._app, self._meters, self._routes, self._log_texts = app, meters, routes, log_texts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        note = Note(_request_id(scope), self._route(scope["path"]), caller=(scope["client"] or ("-",))[0])
        scope["care_accel.note"] = note
        status = 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(_SECURITY)
                headers["X-Request-ID"] = note.id
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        except ApiError as error:
            note.error = error.code
            await error.response()(scope, receive, send_marked)
        except ClientDisconnect:
            note.error = "disconnected"
            status = _GONE
        except Exception as error:
            # Where it failed and as what, but not its message, which may quote a text.
            places = "".join(traceback.format_tb(error.__traceback__))
            log.error("id=%s failed with %s\n%s", note.id, type(error).__name__, places.rstrip())
            if not status:
                await INTERNAL.response()(scope, receive, send_marked)
        finally:
            self._write(note, scope, status)

    def _route(self, path: str) -> str:
        if path in self._routes:
            return path
        return "/v1/models/{model}" if path.startswith("/v1/models/") else "other"

    def _write(self, note: Note, scope: Scope, status: int) -> None:
        seconds = perf_counter() - note.started
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._meters.requests.labels(note.route, method, str(status or _GONE)).inc()
        self._meters.seconds.labels(note.route).observe(seconds)
        log.info(
            "id=%s %s %s %d %.1f ms caller=%s texts=%d tokens=%d%s",
            note.id,
            method,
            note.route,
            status or _GONE,
            1e3 * seconds,
            note.caller,
            note.texts,
            note.tokens,
            f" error={note.error}" if note.error else "",
        )
        if self._log_texts and note.words is not None:
            # As JSON, so that a text with a line break cannot write a line of its own.
            log.info("id=%s words=%s", note.id, json.dumps(note.words, ensure_ascii=True))


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid4().hex
