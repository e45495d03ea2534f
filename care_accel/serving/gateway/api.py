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
from care_accel.serving.gateway.body import BodyReader
from care_accel.serving.gateway.errors import ApiError, invalid
from care_accel.serving.gateway.metrics import Metrics
from care_accel.serving.gateway.middleware import request_log_of
from care_accel.serving.gateway.places import Places
from care_accel.serving.gateway.reranking import best, distinct
from care_accel.serving.gateway.schemas import EmbeddingRequest, RerankRequest, SearchRequest
from care_accel.serving.gateway.settings import Settings
from care_accel.serving.gateway.upstream import Upstream

_T = TypeVar("_T")


class Api:
    """Handlers of embeddings, search, reranking and model listing.

    Parameters
    ----------
    settings : Settings
    upstream : Upstream
    metrics : Metrics
    places : Places
    """

    def __init__(self, settings: Settings, upstream: Upstream, metrics: Metrics, places: Places) -> None:
        self._settings, self._upstream, self._metrics = settings, upstream, metrics
        self._places, self._bodies = places, BodyReader(settings, places)

    async def embeddings(self, request: Request) -> Response:
        """``POST /v1/embeddings``, compatible with OpenAI's, with additional ``input_type`` and ``task``."""
        asked = EmbeddingRequest.read(await self._bodies.read_object(request), self._settings)
        _log_request(request, asked.texts)
        with self._places.take():
            async with self._upstream.deadline() as extend:
                served = await self._upstream.model(asked.role, asked.model)
                asked.check_role(served.role)
                width = _width(asked.dimensions, served)
                found = await _cancel_on_disconnect(
                    request.receive, self._upstream.encode(served.role, asked.texts, asked.task, extend)
                )
            vectors = np.ascontiguousarray(found.vectors[:, :width], "<f4")
            data = [
                {"object": "embedding", "index": i, "embedding": embedding}
                for i, embedding in enumerate(_base64(vectors) if asked.base64 else vectors.tolist())
            ]
            usage = self._record_usage(request, found.tokens)
            body = {"object": "list", "data": data, "model": asked.model, "usage": usage}
            return await json_response(body, vectors.size)

    async def search(self, request: Request) -> Response:
        """``POST /v1/search``: top documents of the served index."""
        started = perf_counter()
        asked = SearchRequest.read(await self._bodies.read_object(request), self._settings)
        _log_request(request, asked.texts)
        with self._places.take():
            async with self._upstream.deadline() as extend:
                served = await self._upstream.model("query", asked.model, "a search")
                found = await _cancel_on_disconnect(
                    request.receive,
                    self._upstream.search(
                        asked.texts, asked.k, asked.task, asked.filter, extend, partial=asked.partial
                    ),
                )
            data: list[dict[str, Any]] = []
            for piece in found:
                data += _found(piece, len(data))
            body = {
                "object": "list",
                "data": data,
                "model": asked.model or served.name,
                "usage": self._record_usage(request, sum(int(np.sum(piece.tokens)) for piece in found)),
                "timings": {"gateway_us": 1e6 * (perf_counter() - started)},
            }
            return await json_response(body, sum(piece.ids.size for piece in found))

    async def rerank(self, request: Request) -> Response:
        """``POST /v1/rerank``, as Cohere's: documents by their inner products with a query, as in reranking tasks."""
        asked = RerankRequest.read(await self._bodies.read_object(request), self._settings)
        _log_request(request, [asked.query, *asked.texts])
        texts, places = distinct(asked.texts)
        with self._places.take():
            async with self._upstream.deadline() as extend:
                served = await self._upstream.model("query", None)
                if asked.model not in (None, served.name):
                    raise ApiError(
                        404,
                        "model_not_found",
                        f"model not found; reranking is with {served.name!r}, whose two roles it takes",
                        param="model",
                    )

                async def encode() -> tuple[Any, Any]:
                    query = await self._upstream.encode("query", [asked.query], "reranking")
                    return query, await self._upstream.encode("document", texts, "reranking", extend)

                query, documents = await _cancel_on_disconnect(request.receive, encode())
            results = []
            for index, score in best(query.vectors[0], documents.vectors, places, asked.top_n):
                result: dict[str, Any] = {"index": index, "relevance_score": score}
                if asked.return_documents:
                    document = asked.documents[index]
                    result["document"] = document if isinstance(document, dict) else {"text": document}
                results.append(result)
            body = {
                "id": request_log_of(request.scope).id,
                "results": results,
                "model": served.name,
                "usage": self._record_usage(request, query.tokens + documents.tokens),
            }
            return await json_response(body, len(results))

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

    def _record_usage(self, request: Request, total: int) -> dict[str, int]:
        entry = request_log_of(request.scope)
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


def _found(piece: Any, first: int) -> list[dict[str, Any]]:
    """Return the answers to the queries of a piece, whose first query has a position in the request."""
    # Of a collection, hits have the documents' own ids; None is padding, as -1 is.
    ids = getattr(piece, "document_ids", None)
    if ids is None:
        ids = [[int(one) if one >= 0 else None for one in row] for row in piece.ids]
    spans = getattr(piece, "spans", None) or [[None] * len(row) for row in ids]
    shares = getattr(piece, "shares", None)
    return [
        {
            "object": "search.hits",
            "index": first + i,
            "hits": _hits(ids[i], piece.scores[i], piece.documents[i], spans[i]),
            # Of a collection in shards of which some are away.
            **({"partial": True, "share": float(shares[i])} if shares is not None and shares[i] < 1 else {}),
            "timings": dict(
                zip(("tokenise_us", "encode_us", "scan_us"), map(float, piece.times[i]), strict=True)
            ),
        }
        for i in range(len(ids))
    ]


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
