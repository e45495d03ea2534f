"""The gateway as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from care_accel.serving.gateway.api import Api
from care_accel.serving.gateway.envelope import Envelope, note_of
from care_accel.serving.gateway.errors import INTERNAL, ApiError
from care_accel.serving.gateway.gate import Gate
from care_accel.serving.gateway.meters import Meters
from care_accel.serving.gateway.rate import RateLimit
from care_accel.serving.gateway.settings import Settings
from care_accel.serving.gateway.upstream import Backend, Upstream
from care_accel.version import __version__

_PAGE = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/words.js": ("words.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


def create_app(settings: Settings, backend: Backend, *, rate: RateLimit | None = None) -> ASGIApp:
    """Return the gateway.

    Parameters
    ----------
    settings : Settings
    backend : Backend
        A client of the inference server, closed at the end. The server need not be there yet: until it is,
        requests are answered with 503.
    rate : RateLimit, optional
        By default what the settings say.
    """
    meters = Meters()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.upstream = Upstream(backend, settings.timeout)
        app.state.api = Api(settings, app.state.upstream, meters)
        try:
            yield
        finally:
            await backend.close()

    async def embeddings(request: Request) -> Response:
        return await request.app.state.api.embeddings(request)

    async def search(request: Request) -> Response:
        return await request.app.state.api.search(request)

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

    async def metrics(_request: Request) -> Response:
        return Response(meters.exposition(), media_type=meters.content_type)

    async def page_settings(request: Request) -> Response:
        return JSONResponse(
            {
                "token_required": bool(settings.tokens),
                "ready": await request.app.state.upstream.ready(),
                "most_k": settings.max_k,
                "version": __version__,
            }
        )

    routes: list[BaseRoute] = [
        Route("/v1/embeddings", embeddings, methods=["POST"]),
        Route("/v1/search", search, methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/models/{model:path}", model),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", metrics),
        Route("/page/settings", page_settings),
        *(_static(path, *what) for path, what in _PAGE.items()),
    ]
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={HTTPException: _answer, ApiError: _answer, Exception: _answer},
    )
    app.router.redirect_slashes = False  # a redirect would repeat the caller's Host
    known = frozenset(route.path for route in routes if isinstance(route, Route)) - {
        "/v1/models/{model:path}"
    }
    return Envelope(Gate(app, settings, meters, rate), meters, known, log_texts=settings.log_texts)


async def _answer(request: Request, error: Exception) -> Response:
    """Turn an error of a route, or of the routing itself, into a response."""
    status = getattr(error, "status_code", 500)
    if isinstance(error, ApiError):
        shaped = error
    elif status == 404:
        shaped = ApiError(404, "unknown_url", "there is nothing at this address")
    elif status == 405:
        headers = getattr(error, "headers", None)
        shaped = ApiError(405, "method_not_allowed", "this address takes another method", headers=headers)
    else:
        shaped = INTERNAL
    note_of(request.scope).error = shaped.code
    return shaped.response()


def _static(path: str, name: str, kind: str) -> Route:
    content = (files("care_accel.serving.gateway") / "page" / name).read_bytes()

    async def file(_request: Request) -> Response:
        # Asked for anew each time: a newer release's page never meets an older one's script.
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    return Route(path, file)
