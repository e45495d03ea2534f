"""The inference server as the gateway sees it: what it serves, its answers, and its errors in HTTP's terms."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, Protocol, TypeVar

from care_accel.encoding.runtimes.attempts import ServerError
from care_accel.encoding.spec import ROLES, Role, Task
from care_accel.errors import CareError
from care_accel.serving.gateway.errors import ApiError, invalid

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_FRESH = 10.0  # seconds; another model may be served under the same address after that
_NOT_SERVED = "not_served"
_PROBE = 1.0  # seconds that an answer about readiness is kept: probes cost the server nothing


class Backend(Protocol):
    """What is asked of a client of the inference server; `AsyncServerClient` has it."""

    async def ready(self) -> bool:
        """Tell whether the server answers and its models are loaded."""

    async def describe(self, role: Role, *, refresh: bool = False) -> Any:
        """Return what encodes a role: name, width, spec, revision, fingerprint, symmetric."""

    async def encode(self, role: Role, texts: list[str], task: Task) -> Any:
        """Return vectors [n, width], tokens [n] and times [n, 2] in microseconds."""

    async def search(self, texts: list[str], k: int, task: Task) -> Any:
        """Return ids [n, k], scores [n, k], documents, tokens [n] and times [n, 3] in microseconds."""

    async def close(self) -> None:
        """End its connections."""


class Upstream:
    """The inference server behind the gateway.

    Parameters
    ----------
    backend : Backend
    timeout : float
        Seconds for all that one request asks of it, retries included.
    """

    def __init__(self, backend: Backend, timeout: float) -> None:
        self._backend, self._timeout = backend, timeout
        self._known: dict[Role, tuple[float, Any]] = {}
        self._readiness: tuple[float, bool] | None = None

    async def model(self, role: Role, name: str | None) -> Any:
        """Return what is served for a role, if it has that name.

        Raises
        ------
        ApiError
            404 for another name; what `encode` raises.
        """
        served = await self._describe(role)
        if name is not None and name != served.name:
            raise ApiError(
                404,
                "model_not_found",
                f"no model of that name is served here; the one that is, is {served.name!r}",
                param="model",
            )
        return served

    async def models(self) -> dict[str, dict[Role, Any]]:
        """Return what is served: names, and by role what each is; a server may serve one role alone."""
        found: dict[str, dict[Role, Any]] = {}
        for role in ROLES:
            try:
                served = await self._describe(role)
            except ApiError as error:
                if error.code != _NOT_SERVED:
                    raise
            else:
                found.setdefault(served.name, {})[role] = served
        return found

    async def encode(self, role: Role, texts: list[str], task: Task) -> Any:
        """Encode some texts.

        Raises
        ------
        ApiError
            400 with the server's own words for a request it refuses, 503 while it is away or overloaded, 504
            when it takes too long, 502 for what else goes wrong in it.
        """
        return await _answer(self._backend.encode(role, texts, task))

    async def search(self, texts: list[str], k: int, task: Task) -> Any:
        """Search for some texts; errors as `encode` has them."""
        return await _answer(self._backend.search(texts, k, task))

    async def ready(self) -> bool:
        """Tell whether it can serve now; asked at most once a second."""
        if self._readiness is None or monotonic() - self._readiness[0] > _PROBE:
            try:
                async with asyncio.timeout(min(self._timeout, 2.0)):
                    ready = bool(await self._backend.ready())
            except Exception:
                ready = False
            self._readiness = (monotonic(), ready)
        return self._readiness[1]

    async def _describe(self, role: Role) -> Any:
        if role not in self._known or monotonic() - self._known[role][0] > _FRESH:
            self._known[role] = (monotonic(), await _answer(self._backend.describe(role, refresh=True)))
        return self._known[role][1]

    @asynccontextmanager
    async def deadline(self) -> AsyncIterator[None]:
        """Give all that one request asks of the server its time, together.

        Raises
        ------
        ApiError
            504 when it is over.
        """
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except TimeoutError:
            raise _too_slow() from None


async def _answer(call: Awaitable[_T]) -> _T:
    """Await an answer of the server; what goes wrong becomes an `ApiError`."""
    try:
        return await call
    except CareError as error:
        raise _in_http(error) from error


def _in_http(error: CareError) -> ApiError:
    status = error.status if isinstance(error, ServerError) else None
    if status == "INVALID_ARGUMENT":
        return invalid(str(error), code="refused_by_server")
    log.warning("the inference server: %s", status or "an answer that cannot be read")
    if status == "UNAVAILABLE":
        return ApiError(
            503,
            "server_unavailable",
            "the inference server is overloaded or not there; try again",
            headers={"Retry-After": "1"},
        )
    if status == "DEADLINE_EXCEEDED":
        return _too_slow()
    if status == "NOT_FOUND":
        return ApiError(404, _NOT_SERVED, "the inference server does not serve this")
    return ApiError(502, "server_failed", "the inference server failed")


def _too_slow() -> ApiError:
    return ApiError(
        504, "server_too_slow", "the inference server did not answer in time; send fewer texts at a time"
    )
