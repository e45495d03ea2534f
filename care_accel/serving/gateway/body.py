"""Reads JSON request bodies with a size limit and a timeout."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request

from care_accel.serving.gateway.errors import ApiError, invalid
from care_accel.serving.gateway.settings import Settings

# Oversized bodies up to this multiple of the limit are drained: closing the connection while the client still
# sends would lose the error response.
_DRAIN_FACTOR = 4


JSON = "application/json"


async def read_object(request: Request, settings: Settings) -> dict[str, Any]:
    """Return the JSON object in a request body.

    Raises
    ------
    ApiError
        408 for a timeout, 413 for an oversized body, 415 for another media type, 400 if it is not a JSON object.
    """
    _, body = await read_body(request, settings, (JSON,))
    return parse_object(body, "the body")


async def read_body(request: Request, settings: Settings, kinds: Sequence[str]) -> tuple[str, bytes]:
    """Return the media type and the bytes of a request body.

    Raises
    ------
    ApiError
        408 for a timeout, 413 for an oversized body, 415 for another media type than these.
    """
    # Pages of other origins can send text/plain without a CORS preflight, but not these types.
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in kinds:
        raise ApiError(415, "unsupported_media_type", f"send Content-Type: {' or '.join(kinds)}")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise ApiError(415, "unsupported_encoding", "send the body without Content-Encoding")
    try:
        async with asyncio.timeout(settings.body_timeout):
            return kind, await _read(request, settings.max_body)
    except TimeoutError:
        raise ApiError(
            408,
            "body_too_slow",
            f"the body did not arrive within {settings.body_timeout:g} s",
            headers={"Connection": "close"},
        ) from None


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


async def _read(request: Request, limit: int) -> bytes:
    length = request.headers.get("content-length", "0")
    declared = int(length) if length.isascii() and length.isdigit() else 0
    if declared > _DRAIN_FACTOR * limit:
        raise _too_long(limit)
    body = bytearray()
    read = 0
    async for piece in request.stream():  # Content-Length is missing if chunked
        read += len(piece)
        if read <= limit:
            body += piece
        elif read > _DRAIN_FACTOR * limit:
            break
    if read > limit:
        raise _too_long(limit)
    return bytes(body)


def _too_long(limit: int) -> ApiError:
    return ApiError(
        413,
        "body_too_long",
        f"the body exceeds {limit} bytes; send fewer texts per request",
        headers={"Connection": "close"},
    )


def _refuse_constant(_name: str) -> None:
    raise ValueError("JSON has no NaN and no infinity")
