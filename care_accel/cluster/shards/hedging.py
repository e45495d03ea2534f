"""A call that is made again elsewhere while it is slow."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

_T = TypeVar("_T")


async def hedged(call: Callable[[], Awaitable[_T]], wait: float | None) -> _T:
    """Await a call, and a second one if the first takes long; the first good answer counts, the other call is cancelled.

    Parameters
    ----------
    call : callable
    wait : float or None
        Seconds before the second call; None for no second one.
    """
    calls = {asyncio.ensure_future(call())}
    try:
        while True:
            done, pending = await asyncio.wait(calls, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            if not done and len(calls) == 1:
                calls.add(asyncio.ensure_future(call()))
                wait = None
                continue
            good = [one for one in done if one.exception() is None]
            if good or not pending:
                return (good or list(done))[0].result()
            calls = pending
    finally:
        for one in calls:
            one.cancel()
