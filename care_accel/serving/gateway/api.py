"""Routes under ``/v1``."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Coroutine
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive

from care_accel.encoding.spec import Role
from care_accel.serving.gateway.answers import json_response
from care_accel.serving.gateway.body import read_object
from care_accel.serving.gateway.errors import ApiError, invalid
from care_accel.serving.gateway.metrics import Metrics
from care_accel.serving.gateway.middleware import request_log_of
from care_accel.serving.gateway.schemas import EmbeddingRequest, SearchRequest
from care_accel.serving.gateway.settings import Settings
from care_accel.serving.gateway.upstream import Upstream

_T = TypeVar("_T")


class Api:
    """Handlers of embeddings, search and model listing.

    Parameters
    ----------
    settings : Settings
    upstream : Upstream
    metrics : Metrics
    """

    def __init__(self, settings: Settings, upstream: Upstream, metrics: Metrics) -> None:
        self._settings, self._upstream, self._metrics = settings, upstream, metrics

    async def embeddings(self, request: Request) -> Response:
        """``POST /v1/embeddings``, compatible with OpenAI's, with additional ``input_type`` and ``task``."""
        asked = EmbeddingRequest.read(await read_object(request, self._settings), self._settings)
        _log_request(request, asked.texts)
        async with self._upstream.deadline():
            served = await self._upstream.model(asked.role, asked.model)
            width = _width(asked.dimensions, served)
            found = await _cancel_on_disconnect(
                request.receive, self._upstream.encode(asked.role, asked.texts, asked.task)
            )
        vectors = np.ascontiguousarray(found.vectors[:, :width], "<f4")
        data = [
            {"object": "embedding", "index": i, "embedding": embedding}
            for i, embedding in enumerate(_base64(vectors) if asked.base64 else vectors.tolist())
        ]
        usage = self._record_usage(request, found.tokens)
        body = {"object": "list", "data": data, "model": served.name, "usage": usage}
        return await json_response(body, vectors.size)

    async def search(self, request: Request) -> Response:
        """``POST /v1/search``: top documents of the served index."""
        started = perf_counter()
        asked = SearchRequest.read(await read_object(request, self._settings), self._settings)
        _log_request(request, asked.texts)
        async with self._upstream.deadline():
            served = await self._upstream.model("query", asked.model)
            found = await _cancel_on_disconnect(
                request.receive,
                self._upstream.search(asked.texts, asked.k, asked.task, asked.filter),
            )
        # Of a collection, hits have the documents' own ids; None is padding, as -1 is.
        ids = getattr(found, "document_ids", None)
        if ids is None:
            ids = [[int(one) if one >= 0 else None for one in row] for row in found.ids]
        spans = getattr(found, "spans", None) or [[None] * len(row) for row in ids]
        data = [
            {
                "object": "search.hits",
                "index": i,
                "hits": _hits(ids[i], found.scores[i], found.documents[i], spans[i]),
                "timings": dict(
                    zip(("tokenise_us", "encode_us", "scan_us"), map(float, found.times[i]), strict=True)
                ),
            }
            for i in range(len(asked.texts))
        ]
        body = {
            "object": "list",
            "data": data,
            "model": served.name,
            "usage": self._record_usage(request, found.tokens),
            "timings": {"gateway_us": 1e6 * (perf_counter() - started)},
        }
        return await json_response(body, found.ids.size)

    async def models(self, request: Request) -> Response:
        """``GET /v1/models``."""
        async with self._upstream.deadline():
            served = await self._upstream.models()
        return await json_response({"object": "list", "data": [_model(*one) for one in served.items()]})

    async def model(self, request: Request) -> Response:
        """``GET /v1/models/{model}``."""
        name = request.path_params["model"]
        async with self._upstream.deadline():
            served = await self._upstream.models()
        if name not in served:
            raise ApiError(
                404,
                "model_not_found",
                "model not found; GET /v1/models lists the served models",
                param="model",
            )
        return await json_response(_model(name, served[name]))

    def _record_usage(self, request: Request, tokens: Any) -> dict[str, int]:
        entry, total = request_log_of(request.scope), int(np.sum(tokens))
        entry.tokens = total
        self._metrics.texts.labels(entry.route).inc(entry.texts)
        self._metrics.tokens.labels(entry.route).inc(total)
        return {"prompt_tokens": total, "total_tokens": total}


def _log_request(request: Request, texts: list[str]) -> None:
    entry = request_log_of(request.scope)
    entry.texts, entry.payload = len(texts), texts


def _width(dimensions: int | None, served: Any) -> int:
    """Return the requested embedding dimension, if the model supports it.

    With normalize-then-slice, the leading values are the vector of the narrower model. With slice-then-normalize they
    would have to be normalised again.
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
            f"{served.name!r} normalises after slicing, so its vectors cannot be shortened; omit 'dimensions' or set it "
            f"to {width}",
            "dimensions",
            "unsupported_dimensions",
        )
    return dimensions


def _base64(vectors: np.ndarray[Any, Any]) -> list[str]:
    return [base64.b64encode(row.tobytes()).decode("ascii") for row in vectors]


def _hits(ids: Any, scores: Any, documents: list[Any], spans: list[Any]) -> list[dict[str, Any]]:
    return [
        {"id": one, "score": float(score), "document": document} | ({"span": span} if span else {})
        for one, score, document, span in zip(ids, scores, documents, spans, strict=True)
        if one is not None  # padding: fewer documents than k
    ]


def _model(name: str, roles: dict[Role, Any]) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": 0,  # unknown
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


async def _cancel_on_disconnect(receive: Receive, work: Coroutine[Any, Any, _T]) -> _T:
    """Await a coroutine, and cancel it if the client disconnects first."""
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
