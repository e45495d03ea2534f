"""Reads JSON request bodies with a size limit and a timeout."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request

from care_accel.serving.gateway.errors import ApiError, invalid
from care_accel.serving.gateway.places import Places
from care_accel.serving.gateway.settings import Settings

# Oversized bodies up to this multiple of the limit are drained: closing the connection while the client still
# sends would lose the error response.
_DRAIN_FACTOR = 4


JSON = "application/json"


class BodyReader:
    """Reads request bodies.

    Parameters
    ----------
    settings : Settings
    places : Places
        Limits the bytes of all bodies that arrive at the same time.
    """

    def __init__(self, settings: Settings, places: Places) -> None:
        self._settings, self._places = settings, places

    async def read_object(self, request: Request) -> dict[str, Any]:
        """Return the JSON object in a request body.

        Raises
        ------
        ApiError
            400 if it is not a JSON object; else as `read`.
        """
        _, body = await self.read(request, (JSON,))
        return parse_object(body, "the body")

    async def read(self, request: Request, kinds: Sequence[str]) -> tuple[str, bytes]:
        """Return the media type and the bytes of a request body.

        Raises
        ------
        ApiError
            408 for a timeout, 413 for an oversized body, 415 for another media type than these, 503 if too much is arriving.
        """
        # Pages of other origins can send text/plain without a CORS preflight, but not these types.
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in kinds:
            raise ApiError(415, "unsupported_media_type", f"send Content-Type: {' or '.join(kinds)}")
        if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise ApiError(415, "unsupported_encoding", "send the body without Content-Encoding")
        seconds = self._settings.body_timeout
        try:
            async with asyncio.timeout(seconds):
                return kind, await self._arrival(request)
        except TimeoutError:
            raise ApiError(
                408,
                "body_too_slow",
                f"the body did not arrive within {seconds:g} s",
                headers={"Connection": "close"},
            ) from None

    async def _arrival(self, request: Request) -> bytes:
        limit = self._settings.max_body
        length = request.headers.get("content-length", "0")
        declared = int(length) if length.isascii() and length.isdigit() else 0
        if declared > _DRAIN_FACTOR * limit:
            raise _too_long(limit)
        read = 0
        with self._places.arriving() as body:
            async for piece in request.stream():  # Content-Length is missing if chunked
                read += len(piece)
                if read <= limit:
                    self._places.grow(body, piece)
                elif read > _DRAIN_FACTOR * limit:
                    break
            if read > limit:
                raise _too_long(limit)
            return bytes(body)


def parse_object(raw: bytes, what: str) -> dict[str, Any]:
    """Return a JSON object; ``what`` names it in errors.

    Raises
    ------
    ApiError
        400 if it is none.
    """
    try:
        values = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise invalid(f"{what} is not UTF-8", code="invalid_json") from None
    except json.JSONDecodeError as cause:
        raise invalid(
            f"{what} is not valid JSON: {cause.msg} at character {cause.pos + 1}", code="invalid_json"
        ) from None
    except (ValueError, RecursionError):  # very long numbers, NaN, very deep nesting
        raise invalid(f"{what} is not valid JSON", code="invalid_json") from None
    if not isinstance(values, dict):
        raise invalid(f"{what} must be a JSON object", code="invalid_json")
    return values


def _too_long(limit: int) -> ApiError:
    return ApiError(
        413,
        "body_too_long",
        f"the body exceeds {limit} bytes; send fewer texts per request",
        headers={"Connection": "close"},
    )


def _refuse_constant(_name: str) -> None:
    raise ValueError("JSON has no NaN and no infinity")
