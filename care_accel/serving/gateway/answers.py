"""Responses in JSON."""

from __future__ import annotations

import asyncio
import datetime
import json
import math
from typing import Any

from starlette.responses import Response

_MAX_INLINE_VALUES = 10_000


async def json_response(values: dict[str, Any], numbers: int = 0) -> Response:
    """Return values as JSON; ``numbers`` says about how many they are.

    Dates and times are ISO 8601, and what JSON does not have is null.
    """
    # Large responses are serialised in a thread, so that they do not block the event loop.
    body = await asyncio.to_thread(_dumps, values) if numbers > _MAX_INLINE_VALUES else _dumps(values)
    return Response(body, media_type="application/json")


def _dumps(values: Any) -> bytes:
    try:
        return json.dumps(
            values, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain
        ).encode("utf-8")
    except ValueError:
        # A document has NaN or a lone surrogate; neither is portable JSON.
        return json.dumps(_finite(values), allow_nan=False, separators=(",", ":"), default=_plain).encode(
            "ascii"
        )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> str:
    if isinstance(value, datetime.date):  # a time too
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no place in JSON")
