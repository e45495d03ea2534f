"""The routes under ``/v1``."""

from __future__ import annotations

import asyncio
import base64
import json
import math
from collections.abc import Coroutine
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive

from care_accel.encoding.spec import Role
from care_accel.serving.gateway.body import read_object
from care_accel.serving.gateway.envelope import note_of
from care_accel.serving.gateway.errors import ApiError, invalid
from care_accel.serving.gateway.fields import EmbeddingRequest, SearchRequest
from care_accel.serving.gateway.meters import Meters
from care_accel.serving.gateway.settings import Settings
from care_accel.serving.gateway.upstream import Upstream

_T = TypeVar("_T")


class Api:
    """Embeddings, search and what is served.

    Parameters
    ----------
    settings : Settings
    upstream : Upstream
    meters : Meters
    """

    def __init__(self, settings: Settings, upstream: Upstream, meters: Meters) -> None:
        self._settings, self._upstream, self._meters = settings, upstream, meters

    async def embeddings(self, request: Request) -> Response:
        """``POST /v1/embeddings``, as OpenAI's, with ``input_type`` and ``task`` besides."""
        asked = EmbeddingRequest.read(await read_object(request, self._settings), self._settings)
        _noted(request, asked.texts)
        async with self._upstream.deadline():
            served = await self._upstream.model(asked.role, asked.model)
            width = _width(asked.dimensions, served)
            found = await _unless_gone(
                request.receive, self._upstream.encode(asked.role, asked.texts, asked.task)
            )
        vectors = np.ascontiguousarray(found.vectors[:, :width], "<f4")
        data = [
            {"object": "embedding", "index": place, "embedding": embedding}
            for place, embedding in enumerate(_base64(vectors) if asked.base64 else vectors.tolist())
        ]
        usage = self._used(request, found.tokens)
        body = {"object": "list", "data": data, "model": served.name, "usage": usage}
        return await _as_json(body, vectors.size)

    async def search(self, request: Request) -> Response:
        """``POST /v1/search``: the best documents of the served index."""
        started = perf_counter()
        asked = SearchRequest.read(await read_object(request, self._settings), self._settings)
        _noted(request, asked.texts)
        async with self._upstream.deadline():
            served = await self._upstream.model("query", asked.model)
            found = await _unless_gone(
                request.receive, self._upstream.search(asked.texts, asked.k, asked.task)
            )
        data = [
            {
                "object": "search.hits",
                "index": place,
                "hits": _hits(found.ids[place], found.scores[place], found.documents[place]),
                "timings": dict(
                    zip(("tokenise_us", "encode_us", "scan_us"), map(float, found.times[place]), strict=True)
                ),
            }
            for place in range(len(asked.texts))
        ]
        body = {
            "object": "list",
            "data": data,
            "model": served.name,
            "usage": self._used(request, found.tokens),
            "timings": {"gateway_us": 1e6 * (perf_counter() - started)},
        }
        return await _as_json(body, found.ids.size)

    async def models(self, request: Request) -> Response:
        """``GET /v1/models``."""
        async with self._upstream.deadline():
            served = await self._upstream.models()
        return await _as_json({"object": "list", "data": [_model(*one) for one in served.items()]})

    async def model(self, request: Request) -> Response:
        """``GET /v1/models/{model}``."""
        name = request.path_params["model"]
        async with self._upstream.deadline():
            served = await self._upstream.models()
        if name not in served:
            raise ApiError(404, "model_not_found", "no model of that name is served here", param="model")
        return await _as_json(_model(name, served[name]))

    def _used(self, request: Request, tokens: Any) -> dict[str, int]:
        note, total = note_of(request.scope), int(np.sum(tokens))
        note.tokens = total
        self._meters.texts.labels(note.route).inc(note.texts)
        self._meters.tokens.labels(note.route).inc(total)
        return {"prompt_tokens": total, "total_tokens": total}


def _noted(request: Request, texts: list[str]) -> None:
    note = note_of(request.scope)
    note.texts, note.words = len(texts), texts


def _width(dimensions: int | None, served: Any) -> int:
    """Return how many values of a vector are asked for, if the model can truly give so many.

    Normalised and then sliced, the first values of a vector are the vector of the narrower model. Sliced and
    then normalised they are not: they would have to be normalised again, which is another model's vector.
    """
    width: int = served.width
    if dimensions is None or dimensions == width:
        return width
    if dimensions > width:
        raise invalid(
            f"'dimensions' is {dimensions}; the vectors of {served.name!r} have {width} values", "dimensions"
        )
    if served.spec.order != "normalize-then-slice":
        raise invalid(
            f"{served.name!r} normalises after slicing: a part of its vector is no vector of a narrower model; "
            f"ask for {width} dimensions or none",
            "dimensions",
            "unsupported_dimensions",
        )
    return dimensions


def _base64(vectors: np.ndarray[Any, Any]) -> list[str]:
    return [base64.b64encode(row.tobytes()).decode("ascii") for row in vectors]


def _hits(ids: Any, scores: Any, documents: list[Any]) -> list[dict[str, Any]]:
    return [
        {"id": int(one), "score": float(score), "document": document}
        for one, score, document in zip(ids, scores, documents, strict=True)
        if one >= 0  # fewer documents than k
    ]


def _model(name: str, roles: dict[Role, Any]) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": 0,  # not known
        "owned_by": "care_accel",
        "roles": {
            role: {
                "dimensions": served.width,
                "order": served.spec.order,
                "revision": served.revision,
                "max_tokens": served.spec.max_tokens,
            }
            for role, served in roles.items()
        },
    }


async def _unless_gone(receive: Receive, work: Coroutine[Any, Any, _T]) -> _T:
    """Await some work, and give it up if the caller hangs up first: nobody would read the answer."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _as_json(values: dict[str, Any], numbers: int = 0) -> Response:
    # A megabyte of numbers takes long enough to write that other requests should not wait for it.
    body = await asyncio.to_thread(_dumped, values) if numbers > _MANY else _dumped(values)
    return Response(body, media_type="application/json")


_MANY = 10_000


def _dumped(values: Any) -> bytes:
    try:
        return json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
    except ValueError:
        # A document was saved with NaN or half of a surrogate pair in it; neither is JSON that all can read.
        return json.dumps(_finite(values), allow_nan=False, separators=(",", ":")).encode("ascii")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
