"""A collection whose shards are inference servers, as a gateway asks one server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from care_accel.cluster.servers.connections import FollowedServers, ServedShard, Servers, ShardServer
from care_accel.cluster.shards.answers import Answer
from care_accel.cluster.shards.calls import DEFAULT, Limits, ShardAway, ShardGone
from care_accel.cluster.shards.hedging import hedged
from care_accel.cluster.shards.router import Router
from care_accel.encoding.runtimes.attempts import ServerError
from care_accel.encoding.runtimes.server_descriptions import ServedEncoder
from care_accel.encoding.runtimes.server_messages import EncodeResult, SearchResult
from care_accel.encoding.spec import Role
from care_accel.errors import CareError, require_count

log = logging.getLogger(__name__)

_T = TypeVar("_T")


class ShardedClient:
    """Client of the inference servers of shards, for asyncio, with the calls of `AsyncServerClient` that a gateway needs.

    A query is encoded once, by one of the servers, so that all shards compare the same vector; then all scan at once, and what
    they find is merged in float64: hits and scores are those of `Collection.search` to the last bit. Which shard a server has it
    says itself; of several with the same shard any one answers.

    Parameters
    ----------
    addresses : sequence of str
        Host and gRPC port of each server.
    timeout : float
        Seconds of a request to one server.
    require_all : bool
        Refuse searches while no server of a shard answers, but those that ask for partial answers; else answer from the other shards, and say which share of the
        documents was searched (`SearchResult.shares`).
    limits : Limits
        How long to wait for shards.

    Raises
    ------
    CareError
        tritonclient is not installed, or an address is wrong or there twice. Servers may start later.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        timeout: float = 30.0,
        require_all: bool = True,
        limits: Limits = DEFAULT,
    ) -> None:
        if len(set(addresses)) < len(addresses):
            raise CareError("the address of a server is given twice; give each once")
        self._open([ShardServer(address, timeout) for address in addresses], require_all, limits)

    def _open(self, servers: Sequence[ShardServer], require_all: bool, limits: Limits) -> None:
        self._servers = Servers(servers)
        self._require_all, self._limits = require_all, limits
        self._router: Router | None = None
        self._starting: asyncio.Future[Router] | None = None

    async def _routed(self) -> Router:
        """Return the router; it starts at first use, and again until a server answers."""
        if self._router is not None:
            return self._router
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._start())
        # A caller that goes away leaves it to the others.
        return await asyncio.shield(self._starting)

    async def _start(self) -> Router:
        try:
            await self._servers.identify()
            shards = [ServedShard(self._servers, n) for n in range(self._servers.served.part.of)]
            router = Router(FollowedServers(self._servers), shards, self._limits)
            try:
                await router.start(wait=False)
            except BaseException:
                await router.close()
                raise
            self._router = router
            return router
        except ShardGone as gone:
            raise ServerError("UNAVAILABLE", str(gone)) from None
        finally:
            self._starting = None

    async def ready(self) -> bool:
        """Return whether all shards are searched."""
        try:
            return not (await self._routed()).away
        except CareError:
            return False

    async def describe(self, role: Role, *, refresh: bool = False) -> ServedEncoder:
        """Return the description of an encoder; see `AsyncServerClient.describe`."""
        return await self._first(lambda server: server.describe(role, refresh=refresh))

    async def encode(self, role: Role, texts: Sequence[str], task: str = "retrieval") -> EncodeResult:
        """Encode texts by one of the servers; see `AsyncServerClient.encode`."""
        return await self._first(lambda server: server.encode(role, texts, task))

    async def search(
        self,
        texts: Sequence[str],
        k: int = 10,
        task: str = "retrieval",
        filters: Sequence[str | None] | None = None,
        *,
        partial: bool = False,
    ) -> SearchResult:
        """Return the top k documents for each query; see `AsyncServerClient.search`.

        Raises
        ------
        CareError
            A shard is away (the status is UNAVAILABLE), or as for one server.
        """
        require_count("k", k)
        if filters is not None and len(filters) != len(texts):
            raise CareError(
                f"{len(filters)} filters for {len(texts)} texts; give one, or None, for each text"
            )
        require_all = self._require_all and not partial
        if (await self._routed()).away and require_all:
            await self.search_vectors(np.empty((0, 1), np.float32), k)  # refused before anything is encoded
        encoded = await self._encoded(texts, task)
        begun = perf_counter()
        groups: dict[str | None, list[int]] = {}
        for row in range(len(texts)):
            groups.setdefault((filters[row] if filters else None) or None, []).append(row)
        answers = await asyncio.gather(
            *(
                self.search_vectors(encoded.vectors[rows], k, filter=condition, partial=partial)
                for condition, rows in groups.items()
            )
        )
        if len({answer.version for answer in answers}) > 1:
            raise ServerError("UNAVAILABLE", "a new version went live during the request; send it again")
        return _result(len(texts), k, list(zip(groups.values(), answers, strict=True)), encoded, begun)

    async def search_vectors(
        self,
        vectors: NDArray[np.float32],
        k: int = 10,
        *,
        filter: str | None = None,
        partial: bool = False,
    ) -> Answer:
        """Search with encoded queries, float32 ``[n, width]``; errors are those of `search`."""
        router = await self._routed()
        try:
            require_all = self._require_all and not partial
            return await router.search(vectors, k, filter=filter, require_all=require_all)
        except ShardAway as away:
            raise ServerError("UNAVAILABLE", str(away)) from None

    async def _encoded(self, texts: Sequence[str], task: str) -> EncodeResult:
        """Encode queries; if a server is slow, another one is asked too."""

        async def encode() -> EncodeResult:
            return await self.encode("query", texts, task)

        return await hedged(encode, self._limits.hedge if len(self._servers.all) > 1 else None)

    async def _first(self, ask: Callable[[ShardServer], Awaitable[_T]]) -> _T:
        """Ask servers in turn until one of them is there."""
        await self._routed()
        reason: CareError = ServerError("UNAVAILABLE", "no server of a shard answers")
        known = [one for one in self._servers.all if one in self._servers]
        for server in self._servers.in_turn(known, "encoding"):
            try:
                return await ask(server)
            except ServerError as error:
                if not (error.gone or error.overloaded):
                    raise
                if error.gone:
                    server.failed()
                reason = error
        raise reason

    async def close(self) -> None:
        """Close the connections."""
        if self._starting is not None:
            self._starting.cancel()
        if self._router is not None:
            await self._router.close()
        await self._servers.close()


def _result(
    count: int, k: int, answers: Sequence[tuple[list[int], Answer]], encoded: EncodeResult, begun: float
) -> SearchResult:
    """Return hits of several answers, each of some rows, in the order of the rows."""
    ids, scores = np.full((count, k), -1, np.int64), np.full((count, k), -np.inf, np.float32)
    shares = np.ones(count, np.float32)
    documents: list[list[object]] = [[None] * k for _ in range(count)]
    names: list[list[str | None]] = [[None] * k for _ in range(count)]
    spans: list[list[tuple[int, int] | None]] = [[None] * k for _ in range(count)]
    for rows, answer in answers:
        shares[rows] = answer.share
        for row, hits, places in zip(rows, answer.hits, answer.positions, strict=True):
            for place, (hit, number) in enumerate(zip(hits, places, strict=True)):
                ids[row, place], scores[row, place] = number, hit.score
                documents[row][place], names[row][place] = hit.document, hit.id
                spans[row][place] = hit.span
    scan = np.full((count, 1), 1e6 * (perf_counter() - begun), np.float32)
    times = np.hstack([encoded.times, scan])
    return SearchResult(ids, scores, documents, encoded.tokens, times, names, spans, shares)
