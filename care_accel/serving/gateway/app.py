"""The ASGI application of the gateway."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from care_accel.serving.gateway.admission import AdmissionMiddleware
from care_accel.serving.gateway.api import Api
from care_accel.serving.gateway.errors import INTERNAL, ApiError
from care_accel.serving.gateway.metrics import Metrics
from care_accel.serving.gateway.middleware import RequestMiddleware, request_log_of
from care_accel.serving.gateway.openapi.description import describe
from care_accel.serving.gateway.openapi.page import render
from care_accel.serving.gateway.places import Places
from care_accel.serving.gateway.rate_limit import RateLimiter
from care_accel.serving.gateway.settings import Settings
from care_accel.serving.gateway.upstream import Backend, Upstream
from care_accel.version import __version__

if TYPE_CHECKING:
    from care_accel.serving.gateway.documents.store import DocumentStore

_PAGE = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/filters.js": ("filters.js", "text/javascript"),
    "/words.js": ("words.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
    "/docs.css": ("docs.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


def create_app(
    settings: Settings,
    backend: Backend,
    *,
    rate: RateLimiter | None = None,
    documents: DocumentStore | None = None,
) -> ASGIApp:
    """Return the gateway.

    Parameters
    ----------
    settings : Settings
    backend : Backend
        A client of the inference server, closed on shutdown. The server may start later: until it is ready,
        requests are answered with 503.
    rate : RateLimiter, optional
        By default from the settings.
    documents : DocumentStore, optional
        The served collection, to read and write its documents; closed on shutdown.
    """
    metrics = Metrics()
    places = Places(settings, metrics)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.upstream = Upstream(backend, settings.timeout)
        app.state.api = Api(settings, app.state.upstream, metrics, places)
        try:
            yield
        finally:
            if documents is not None:
                await documents.close()
            await backend.close()

    async def embeddings(request: Request) -> Response:
        return await request.app.state.api.embeddings(request)

    async def search(request: Request) -> Response:
        return await request.app.state.api.search(request)

    async def rerank(request: Request) -> Response:
        return await request.app.state.api.rerank(request)

    async def models(request: Request) -> Response:
        return await request.app.state.api.models(request)

    async def model(request: Request) -> Response:
        return await request.app.state.api.model(request)

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(request: Request) -> Response:
        if await request.app.state.upstream.ready():
            return JSONResponse({"status": "ready"})
        raise ApiError(503, "not_ready", "the inference server is not ready", headers={"Retry-After": "1"})

    async def exposition(_request: Request) -> Response:
        return Response(metrics.exposition(), media_type=metrics.content_type)

    async def page_settings(request: Request) -> Response:
        return JSONResponse(
            {
                "token_required": bool(settings.tokens),
                "ready": await request.app.state.upstream.ready(),
                "most_k": settings.max_k,
                "collection": documents is not None,
                "version": __version__,
            }
        )

    description = describe(
        settings, collection=documents is not None, writable=documents is not None and documents.writable
    )
    routes: list[BaseRoute] = [
        Route("/v1/embeddings", embeddings, methods=["POST"]),
        Route("/v1/search", search, methods=["POST"]),
        Route("/v1/rerank", rerank, methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/models/{model:path}", model),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", exposition),
        Route("/page/settings", page_settings),
        Route("/openapi.json", _constant(json.dumps(description, ensure_ascii=False), "application/json")),
        Route("/docs", _constant(render(description), "text/html")),
        *(_static(path, *what) for path, what in _PAGE.items()),
    ]
    if documents is not None:
        from care_accel.serving.gateway.documents.routes import DocumentRoutes

        routes += DocumentRoutes(settings, documents, metrics, places).routes()
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={HTTPException: _answer, ApiError: _answer, Exception: _answer},
    )
    app.router.redirect_slashes = False  # a redirect would echo the Host header
    # Without convertors: "/v1/models/{model}".
    known = frozenset(re.sub(r":\w+}", "}", route.path) for route in routes if isinstance(route, Route))
    return RequestMiddleware(
        AdmissionMiddleware(app, settings, metrics, rate), metrics, known, log_texts=settings.log_texts
    )


async def _answer(request: Request, error: Exception) -> Response:
    """Convert an error of a route or of the router into a response."""
    status = getattr(error, "status_code", 500)
    if isinstance(error, ApiError):
        shaped = error
    elif status == 404:
        shaped = ApiError(404, "unknown_url", "no such URL")
    elif status == 405:
        headers = getattr(error, "headers", None)
        shaped = ApiError(405, "method_not_allowed", "method not allowed", headers=headers)
    else:
        shaped = INTERNAL
    request_log_of(request.scope).error = shaped.code
    return shaped.response()


def _static(path: str, name: str, kind: str) -> Route:
    content = (files("care_accel.serving.gateway") / "page" / name).read_bytes()
    return Route(path, _constant(content, kind), include_in_schema=path == "/")


def _constant(content: str | bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def constant(_request: Request) -> Response:
        # Always revalidated, so that page and script are of the same release.
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    return constant
