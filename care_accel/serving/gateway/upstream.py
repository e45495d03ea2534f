"""Upstream inference server: names of models, pieces of requests, deadlines, and its errors as those of HTTP."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol, TypeVar

import numpy as np

from care_accel.encoding.runtimes.attempts import ServerError
from care_accel.encoding.runtimes.server_messages import with_text_positions
from care_accel.encoding.spec import ROLES, Role, Task
from care_accel.errors import CareError
from care_accel.serving.gateway.errors import ApiError, invalid
from care_accel.serving.gateway.pieces import cut

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_MODEL_TTL_S = 10.0  # cache of model descriptions
_NOT_SERVED = "not_served"
_SHARDS_AWAY = re.compile(r"\b(\d+ of \d+ shards) do not answer")
_READY_TTL_S = 1.0  # cache of readiness, for frequent probes
_PLURALS: dict[Role, str] = {"query": "queries", "document": "documents"}


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
        """Coroutine of ``texts, k, task`` and, for a collection, ``filters``: a list of str or None, one a query. And ``partial``,
        which lets a collection in shards answer while some are away.

        Returns ids [n, k], scores [n, k], documents, tokens [n] and times [n, 3] in microseconds. Of a collection,
        ``document_ids`` too: for each query k texts, None beyond its hits; and of one in chunks ``spans``, start and end of the
        chunk that matched.
        """

    async def close(self) -> None:
        """Close the connections."""


@dataclass(frozen=True)
class Encoded:
    """Vectors of texts.

    Attributes
    ----------
    vectors : numpy.ndarray
        float32 ``[n, width]``.
    tokens : int
        Of all texts.
    """

    vectors: np.ndarray[Any, Any]
    tokens: int


class Upstream:
    """The inference server behind the gateway.

    Parameters
    ----------
    backend : Backend
    timeout : float
        Deadline of a gateway request in seconds, retries included: for its only piece, or for each of its pieces.
    """

    def __init__(self, backend: Backend, timeout: float) -> None:
        self._backend, self._timeout = backend, timeout
        self._known: dict[Role, tuple[float, Any]] = {}
        self._readiness: tuple[float, bool] | None = None

    async def model(self, role: Role | None, name: str | None, said_by: str = "'input_type'") -> Any:
        """Return the encoder that a name means: the model's own, or that of one of its roles.

        Parameters
        ----------
        role : {"query", "document"}, optional
            Must agree with the name. By default that of the name, and of the model's own name ``"query"``.
        name : str, optional
        said_by : str
            What asks for the role, in errors.

        Raises
        ------
        ApiError
            404 for another name, 400 for one of the other role; else as `encode`.
        """
        meant = next((one for one in ROLES if name is not None and name.endswith(f"-{one}")), None)
        if name is not None and meant is not None:
            try:
                served = await self._describe(meant)
            except ApiError as error:  # a server may serve a single role
                if error.code != _NOT_SERVED:
                    raise
            else:
                if name == role_name(served.name, meant):
                    if role not in (None, meant):
                        raise invalid(
                            f"the model {name!r} encodes {_PLURALS[meant]}, and {said_by} asks for "
                            f"{_PLURALS[role]}; use the model {served.name!r} or {role_name(served.name, role)!r}",
                            "model",
                            "role_conflict",
                        )
                    return served
        served = await self._describe(role or "query")
        if name not in (None, served.name):
            raise ApiError(
                404,
                "model_not_found",
                f"model not found; the served model is {served.name!r}, and "
                f"{' or '.join(repr(role_name(served.name, one)) for one in ROLES)} for one of its roles",
                param="model",
            )
        return served

    async def models(self) -> dict[str, dict[Role, Any]]:
        """Return the encoders by the names that mean them: the models' own, then those of their roles."""
        found: dict[str, dict[Role, Any]] = {}
        for role in ROLES:
            try:
                served = await self._describe(role)
            except ApiError as error:
                if error.code != _NOT_SERVED:
                    raise
            else:
                found.setdefault(served.name, {})[role] = served
        for name, roles in list(found.items()):
            for role, served in roles.items():
                found.setdefault(role_name(name, role), {role: served})
        return found

    async def encode(
        self, role: Role, texts: list[str], task: Task, extend: Callable[[], None] = lambda: None
    ) -> Encoded:
        """Encode any number of texts, piece by piece; ``extend`` is called after each.

        Raises
        ------
        ApiError
            400 with the server's message for an invalid request, 503 if it is unavailable, overloaded or has changed the
            model meanwhile, 504 for a timeout, 502 for any other failure.
        """
        before = await self._describe(role)
        found = []
        pieces = cut(texts)
        for piece in pieces:
            found.append(await _answer(self._backend.encode(role, [texts[i] for i in piece], task), piece))
            extend()
        if len(pieces) > 1 and (await self._describe(role, refresh=True)).revision != before.revision:
            raise ApiError(
                503,
                "model_changed",
                "the inference server has switched to another model meanwhile; send the request again",
                headers={"Retry-After": "1"},
            )
        return Encoded(
            np.concatenate([one.vectors for one in found]), sum(int(np.sum(one.tokens)) for one in found)
        )

    async def search(
        self,
        texts: list[str],
        k: int,
        task: Task,
        condition: str | None = None,
        extend: Callable[[], None] = lambda: None,
        *,
        partial: bool = False,
    ) -> list[Any]:
        """Search for some texts, among the documents that a filter leaves; return what each piece found.

        ``partial`` allows answers from the shards that are there. ``extend`` and errors are those of `encode`.
        """
        found = []
        for piece in cut(texts):
            options: dict[str, Any] = {} if condition is None else {"filters": [condition] * len(piece)}
            if partial:
                options["partial"] = True
            found.append(
                await _answer(self._backend.search([texts[i] for i in piece], k, task, **options), piece)
            )
            extend()
        return found

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

    async def _describe(self, role: Role, *, refresh: bool = False) -> Any:
        if refresh or role not in self._known or monotonic() - self._known[role][0] > _MODEL_TTL_S:
            self._known[role] = (monotonic(), await _answer(self._backend.describe(role, refresh=True)))
        return self._known[role][1]

    @asynccontextmanager
    async def deadline(self) -> AsyncIterator[Callable[[], None]]:
        """Apply the deadline to the upstream calls of one request; yield a function that lets it begin again.

        Raises
        ------
        ApiError
            504 on timeout.
        """
        try:
            async with asyncio.timeout(self._timeout) as limit:

                def extend() -> None:
                    if not limit.expired():
                        limit.reschedule(asyncio.get_running_loop().time() + self._timeout)

                yield extend
        except TimeoutError:
            raise _timed_out() from None


def role_name(name: str, role: Role) -> str:
    """Return the name that means one role of a model, for clients that can send a model's name alone."""
    return f"{name}-{role}"


async def _answer(call: Awaitable[_T], piece: range = range(0)) -> _T:
    """Await an answer of the server to a piece of a request; map its errors to `ApiError`."""
    try:
        return await call
    except ServerError as error:
        raise as_api_error(with_text_positions(error, piece)) from error
    except CareError as error:
        raise as_api_error(error) from error


def as_api_error(error: CareError) -> ApiError:
    """Return the answer to an error of the inference server."""
    status = error.status if isinstance(error, ServerError) else None
    if status == "INVALID_ARGUMENT":
        return invalid(str(error), code="refused_by_server")
    log.warning("the inference server: %s", status or "invalid response")
    if status == "UNAVAILABLE" and (shards := _SHARDS_AWAY.search(str(error))):
        return ApiError(
            503,
            "shards_unavailable",
            f"{shards[1]} of the collection do not answer; retry later",
            headers={"Retry-After": "1"},
        )
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
