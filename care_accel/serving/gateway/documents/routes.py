"""Routes under ``/v1/documents``, and ``/v1/fields``."""

from __future__ import annotations

import asyncio

from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from care_accel.serving.gateway.answers import json_response
from care_accel.serving.gateway.body import JSON, BodyReader, parse_object
from care_accel.serving.gateway.documents.rows import KINDS, read_rows
from care_accel.serving.gateway.documents.store import DocumentStore
from care_accel.serving.gateway.errors import ApiError
from care_accel.serving.gateway.metrics import Metrics
from care_accel.serving.gateway.middleware import RequestLog, request_log_of
from care_accel.serving.gateway.places import Places
from care_accel.serving.gateway.schemas import DeleteRequest
from care_accel.serving.gateway.settings import Settings


class _AnyText(Convertor[str]):
    """An id in a path: with slashes and line ends, which Starlette's ``path`` does not take."""

    regex = r"[\s\S]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("document_id", _AnyText())


class DocumentRoutes:
    """Handlers of documents.

    Parameters
    ----------
    settings : Settings
    store : DocumentStore
    metrics : Metrics
    places : Places
    """

    def __init__(self, settings: Settings, store: DocumentStore, metrics: Metrics, places: Places) -> None:
        self._settings, self._store, self._metrics = settings, store, metrics
        self._places, self._bodies = places, BodyReader(settings, places)
        metrics.writes_waiting.set_function(lambda: store.waiting)

    def routes(self) -> list[BaseRoute]:
        """Return the routes; those that write only if something can be written."""
        found: list[BaseRoute] = [
            Route("/v1/fields", self.fields),
            Route("/v1/documents/{id:document_id}", self.get),
        ]
        if self._store.writable:
            found.append(Route("/v1/documents", self.change, methods=["PUT", "DELETE"]))
        return found

    async def fields(self, _request: Request) -> Response:
        """``GET /v1/fields``: names and types, and the values of text fields that have few."""
        with self._places.take():
            return await json_response({"object": "fields", **await self._store.fields()})

    async def get(self, request: Request) -> Response:
        """``GET /v1/documents/{id}``."""
        with self._places.take():
            found = await self._store.get(request.path_params["id"])
        if found is None:
            raise ApiError(404, "document_not_found", "there is no document with this id", param="id")
        return await json_response(found)

    async def change(self, request: Request) -> Response:
        """``PUT`` and ``DELETE /v1/documents``."""
        puts = request.method == "PUT"
        kind, body = await self._bodies.read(request, KINDS if puts else (JSON,))
        with self._places.take(), self._store.place():
            if puts:
                return await self._put(kind, body, request_log_of(request.scope))
            return await self._delete(body)

    async def _put(self, kind: str, body: bytes, entry: RequestLog) -> Response:
        # Large bodies take a while to read, which must not hold up searches.
        rows = await asyncio.to_thread(read_rows, kind, body, self._settings)
        entry.texts = len(rows)
        done = await self._store.upsert(rows)
        entry.tokens = done.tokens
        self._metrics.texts.labels(entry.route).inc(len(rows))
        self._metrics.tokens.labels(entry.route).inc(done.tokens)
        for outcome in ("new", "changed", "same"):
            self._metrics.documents.labels(outcome).inc(getattr(done, outcome))
        return await json_response(
            {"new": done.new, "changed": done.changed, "same": done.same, "version": done.version}
        )

    async def _delete(self, body: bytes) -> Response:
        asked = DeleteRequest.read(parse_object(body, "the body"), self._settings)
        deleted, version = await self._store.delete(asked.ids, asked.filter)
        self._metrics.documents.labels("deleted").inc(deleted)
        return await json_response({"deleted": deleted, "version": version})
