"""Upstream inference server: cached model descriptions, deadlines, and mapping of its errors to HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, Protocol, TypeVar

from care_accel.encoding.runtimes.attempts import ServerError
from care_accel.encoding.spec import ROLES, Role, Task
from care_accel.errors import CareError
from care_accel.serving.gateway.errors import ApiError, invalid

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_MODEL_TTL_S = 10.0  # cache of model descriptions
_NOT_SERVED = "not_served"
_READY_TTL_S = 1.0  # cache of readiness, for frequent probes


class Backend(Protocol):
    """Client of the inference server, such as `AsyncServerClient`."""

    async def ready(self) -> bool:
        """Return whether the server and all its models are ready."""

    async def describe(self, role: Role, *, refresh: bool = False) -> Any:
        """Return the encoder of a role: name, width, spec, revision, fingerprint, symmetric."""

    async def encode(self, role: Role, texts: list[str], task: Task) -> Any:
        """Return vectors [n, width], tokens [n] and times [n, 2] in microseconds."""

    @property
    def search(self) -> Callable[..., Awaitable[Any]]:
        """Coroutine of ``texts, k, task`` and, for a collection, ``filters``: a list of str or None, one a query.

        Returns ids [n, k], scores [n, k], documents, tokens [n] and times [n, 3] in microseconds. Of a collection,
        ``document_ids`` too: for each query k texts, None beyond its hits; and of one in chunks ``spans``, start and end of the
        chunk that matched.
        """

    async def close(self) -> None:
        """Close the connections."""


class Upstream:
    """The inference server behind the gateway.

    Parameters
    ----------
    backend : Backend
    timeout : float
        Deadline of a gateway request in seconds, over all upstream calls and retries.
    """

    def __init__(self, backend: Backend, timeout: float) -> None:
        self._backend, self._timeout = backend, timeout
        self._known: dict[Role, tuple[float, Any]] = {}
        self._readiness: tuple[float, bool] | None = None

    async def model(self, role: Role, name: str | None) -> Any:
        """Return the model served for a role, if it has the given name.

        Raises
        ------
        ApiError
            404 for another name; else as `encode`.
        """
        served = await self._describe(role)
        if name is not None and name != served.name:
            raise ApiError(
                404,
                "model_not_found",
                f"model not found; the served model is {served.name!r}",
                param="model",
            )
        return served

    async def models(self) -> dict[str, dict[Role, Any]]:
        """Return the served models by name and role; a server may serve a single role."""
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
            400 with the server's message for an invalid request, 503 if it is unavailable or overloaded, 504 for a
            timeout, 502 for any other failure.
        """
        return await _answer(self._backend.encode(role, texts, task))

    async def search(self, texts: list[str], k: int, task: Task, condition: str | None = None) -> Any:
        """Search for some texts, among the documents that a filter leaves; errors as of `encode`."""
        if condition is None:
            return await _answer(self._backend.search(texts, k, task))
        return await _answer(self._backend.search(texts, k, task, filters=[condition] * len(texts)))

    async def ready(self) -> bool:
        """Return whether the server is ready; checked at most once per second."""
        if self._readiness is None or monotonic() - self._readiness[0] > _READY_TTL_S:
            try:
                async with asyncio.timeout(min(self._timeout, 2.0)):
                    ready = bool(await self._backend.ready())
            except Exception:
                ready = False
            self._readiness = (monotonic(), ready)
        return self._readiness[1]

    async def _describe(self, role: Role) -> Any:
        if role not in self._known or monotonic() - self._known[role][0] > _MODEL_TTL_S:
            self._known[role] = (monotonic(), await _answer(self._backend.describe(role, refresh=True)))
        return self._known[role][1]

    @asynccontextmanager
    async def deadline(self) -> AsyncIterator[None]:
        """Apply the deadline to all upstream calls of one request.

        Raises
        ------
        ApiError
            504 on timeout.
        """
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except TimeoutError:
            raise _timed_out() from None


async def _answer(call: Awaitable[_T]) -> _T:
    """Await an answer of the server; map its errors to `ApiError`."""
    try:
        return await call
    except CareError as error:
        raise as_api_error(error) from error


def as_api_error(error: CareError) -> ApiError:
    """Return the answer to an error of the inference server."""
    status = error.status if isinstance(error, ServerError) else None
    if status == "INVALID_ARGUMENT":
        return invalid(str(error), code="refused_by_server")
    log.warning("the inference server: %s", status or "invalid response")
    if status == "UNAVAILABLE":
        return ApiError(
            503,
            "server_unavailable",
            "the inference server is overloaded or unavailable; retry later",
            headers={"Retry-After": "1"},
        )
    if status == "DEADLINE_EXCEEDED":
        return _timed_out()
    if status == "NOT_FOUND":
        return ApiError(404, _NOT_SERVED, "the inference server does not serve this model")
    return ApiError(502, "server_failed", "the inference server failed")


def _timed_out() -> ApiError:
    return ApiError(504, "server_too_slow", "the inference server timed out; send fewer texts per request")
