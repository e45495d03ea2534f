"""Asks all shards of a collection and merges what they find, at one version, in the order of a single index."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from care_accel.cluster.shards.answers import (
    Answer,
    Candidate,
    Document,
    Found,
    Loaded,
    Missing,
    Newest,
    Refused,
    Request,
)
from care_accel.cluster.shards.calls import DEFAULT, Followed, Limits, ShardAway, ShardCalls, ShardGone
from care_accel.cluster.shards.hedging import hedged
from care_accel.cluster.shards.merging import fused_candidates, hit_of, merged
from care_accel.collection.versions.fusing import depth_of
from care_accel.errors import CareError, require_count
from care_accel.index.lexical.statistics import total

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5
_PROBE_SECONDS = 0.5


class Router:
    """Searches the shards of a collection as one.

    An answer is of one version, and has the hits and scores of `Collection.search` to the last bit, whatever the number of
    shards. Its coroutines run on one event loop. `start` first, then `close`.

    Parameters
    ----------
    collection : Followed
        What the shards are of.
    shards : sequence of ShardCalls
        In the order of their numbers.
    limits : Limits
    """

    def __init__(self, collection: Followed, shards: Sequence[ShardCalls], limits: Limits = DEFAULT) -> None:
        if not shards:
            raise CareError("there is no shard; a router needs at least one")
        self._collection = collection
        self._shards = list(shards)
        self._limits = limits
        self._live: Newest | None = None
        self._away: dict[int, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def version(self) -> int:
        """The version that is searched."""
        return self._now().version

    @property
    def away(self) -> dict[int, str]:
        """Shards that do not answer now, and why."""
        return dict(self._away)

    def _now(self) -> Newest:
        if self._live is None:
            raise CareError("the router has not started; call start")
        return self._live

    async def start(self, *, wait: bool = True) -> None:
        """Wait until all shards have the newest version, and follow the collection from then on.

        Parameters
        ----------
        wait : bool
            Wait for shards that do not answer, too; else they are away until they do.

        Raises
        ------
        CareError
            A shard cannot load it, or not in time.
        """
        await self._switch(await self._collection.newest(), first=wait)
        self._begin(self._follow())

    async def close(self) -> None:
        """Stop following the collection."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def search(
        self,
        vectors: NDArray[np.float32],
        k: int = 10,
        queries: Sequence[str] | None = None,
        *,
        filter: str | None = None,
        group: bool = True,
        require_all: bool = True,
    ) -> Answer:
        """Search with encoded queries.

        Parameters
        ----------
        vectors : numpy.ndarray
            float32 ``[n, width]``.
        k : int
        queries : sequence of str, optional
            Their texts, which a lexical index needs.
        filter, group
            As in `Collection.search`.
        require_all : bool
            Refuse a search while a shard is away; else search the others, and say what share of the documents that is. Word
            statistics are then those of the shards that answer.

        Raises
        ------
        ShardAway
            A shard does not answer, and all are required, or none does.
        CareError
            The filter is wrong, k is below 1, or texts are missing.
        """
        require_count("k", k)
        lexical = self._collection.lexical
        if lexical and (queries is None or len(queries) != len(vectors)):
            raise CareError("this collection has a lexical index; give the text of every query")
        texts = tuple(queries or ()) if lexical else ()
        live = self._now()
        while True:
            asked = [number for number in range(len(self._shards)) if number not in self._away]
            if not asked or (require_all and self._away):
                raise ShardAway(_told(self._away, len(self._shards)))
            request = Request(live.version, int(k), group, filter, vectors, texts, documents=not texts)
            try:
                return await self._once(live, asked, request)
            except ShardAway:
                if require_all:
                    raise

    async def _once(self, live: Newest, asked: Sequence[int], request: Request) -> Answer:
        if not len(cast(Any, request.vectors)):
            return Answer([], live.version, 1.0, [])
        lexical = bool(request.queries)
        depth = depth_of(request.k) if lexical else request.k
        found: list[Found] = await self._ask_all(asked, "search", request._replace(k=depth))
        rows = merged(found, asked, depth, group=request.group)
        if lexical:
            words = total([part.statistics for part in found if part.statistics is not None])
            by_words = request._replace(vectors=None, statistics=words, k=depth)
            also: list[Found] = await self._ask_all(asked, "search", by_words)
            both = zip(rows, merged(also, asked, depth, group=request.group), strict=True)
            rows = [fused_candidates(pair, request.k, group=request.group) for pair in both]
            rows = await self._with_documents(live.version, rows)
        documents = sum(part.documents for part in found)
        whole = len(asked) == len(self._shards) or documents >= live.documents
        share = 1.0 if whole else documents / max(live.documents, 1)
        return Answer(
            [[hit_of(candidate) for _, candidate in row] for row in rows],
            live.version,
            share,
            [[candidate.position * len(self._shards) + number for number, candidate in row] for row in rows],
        )

    async def _with_documents(
        self, version: int, rows: list[list[tuple[int, Candidate]]]
    ) -> list[list[tuple[int, Candidate]]]:
        wanted: dict[int, dict[int, Document]] = {}
        for row in rows:
            for number, candidate in row:
                wanted.setdefault(number, {})[candidate.position] = Document({}, None)
        numbers = list(wanted)
        answers: list[list[Document]] = await _gathered(
            self._ask(number, "documents", version, list(wanted[number])) for number in numbers
        )
        for number, documents in zip(numbers, answers, strict=True):
            wanted[number] = dict(zip(wanted[number], documents, strict=True))
        return [
            [(number, one._replace(document=wanted[number][one.position])) for number, one in row]
            for row in rows
        ]

    async def _ask_all(self, asked: Iterable[int], method: str, *arguments: Any) -> list[Any]:
        return await _gathered(self._ask(number, method, *arguments) for number in asked)

    async def _ask(self, number: int, method: str, *arguments: Any) -> Any:
        """Ask a shard, one replica after the other until one answers."""
        shard = self._shards[number]
        end = monotonic() + self._limits.shard
        pause = _FIRST_PAUSE
        while True:
            try:
                async with asyncio.timeout(max(end - monotonic(), 0)):
                    hedge = self._limits.hedge if shard.replicas > 1 else None
                    answer = await hedged(lambda: shard.call(method, *arguments), hedge)
            except ShardGone as gone:
                reason = str(gone)
            except TimeoutError:
                reason = f"no answer in {self._limits.shard:g} s"
            else:
                if isinstance(answer, Refused):
                    raise CareError(answer.message)
                if not isinstance(answer, Missing):
                    return answer
                reason = f"it is loading version {answer.version}"
            if shard.replicas == 1 or monotonic() + pause >= end:
                raise self._is_away(number, reason)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _is_away(self, number: int, reason: str) -> ShardAway:
        if number not in self._away:
            log.warning("shard %s is away: %s", self._name(number), reason)
            self._away[number] = reason
            self._begin(self._wait_for(number))
        return ShardAway(_told(self._away, len(self._shards)))

    async def _wait_for(self, number: int) -> None:
        """Wait until a shard that is away has the version that is searched."""
        while True:
            await asyncio.sleep(_PROBE_SECONDS)
            if self._live is None:  # away from the start, while others load
                continue
            with suppress(ShardGone, TimeoutError):
                async with asyncio.timeout(self._limits.shard):
                    loaded: Loaded = await self._shards[number].call("load", self._now().version)
                if loaded.ready:
                    log.warning("shard %s is there again", self._name(number))
                    self._away.pop(number, None)
                    return

    async def _follow(self) -> None:
        """Search new versions as soon as all shards have them."""
        while True:
            await asyncio.sleep(self._limits.refresh)
            try:
                newest = await self._collection.newest()
                if newest.version != self._now().version:
                    await self._switch(newest)
            except Exception as cause:
                log.warning("version %d stays: %s", self._now().version, cause)

    async def _switch(self, newest: Newest, *, first: bool = False) -> None:
        """Have all replicas load a version, shard by shard, then search it."""
        end = monotonic() + self._limits.start
        for number in range(len(self._shards)):
            await self._loaded(number, newest.version, end, first=first)
        self._live = newest

    async def _loaded(self, number: int, version: int, end: float, *, first: bool) -> None:
        shard = self._shards[number]
        ready: set[str] = set()
        since: float | None = None
        while True:
            try:
                async with asyncio.timeout(self._limits.shard):
                    loaded: Loaded = await shard.call("load", version)
            except (ShardGone, TimeoutError) as gone:
                if self._live is None and not first and not ready:
                    self._is_away(number, str(gone) or "no answer")
            else:
                if loaded.error:
                    raise CareError(
                        f"shard {self._name(number)} cannot load version {version}: {loaded.error}"
                    )
                if loaded.ready:
                    ready.add(loaded.replica)
            if len(ready) >= shard.replicas:
                return
            now = monotonic()
            since = (since or now) if ready else None
            # A replica that is being started again will have it, or load it when it is asked.
            if since is not None and now - since > self._limits.settle:
                return
            if not first and number in self._away and not ready:
                return
            if now > end:
                raise CareError(
                    f"shard {self._name(number)} does not have version {version} after {self._limits.start:g} s"
                )
            await asyncio.sleep(0.02 if ready else 0.2)

    def _name(self, number: int) -> str:
        """Return the name of a shard for people, who count from 1."""
        return f"{number + 1}/{len(self._shards)}"

    def _begin(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _gathered(calls: Iterable[Awaitable[_T]]) -> list[_T]:
    """Await all; after a failure the others are cancelled."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def _told(away: dict[int, str], shards: int) -> str:
    reasons = "; ".join(f"shard {number + 1}/{shards}: {reason}" for number, reason in sorted(away.items()))
    return f"{len(away)} of {shards} shards do not answer ({reasons}); try again, or ask for a partial answer"
