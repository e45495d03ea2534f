"""Connections of a gateway to the inference servers of shards."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from care_accel.cluster.servers.messages import (
    Arrays,
    Part,
    read_found,
    read_state,
    search_inputs,
    state_inputs,
)
from care_accel.cluster.shards.answers import Found, Loaded, Missing, Newest, Request
from care_accel.cluster.shards.calls import ShardFailed, ShardGone
from care_accel.encoding.runtimes.attempts import Attempts, ServerError
from care_accel.encoding.runtimes.server import AsyncServerClient
from care_accel.encoding.runtimes.server_descriptions import DESCRIPTION, SCAN
from care_accel.errors import CareError

log = logging.getLogger(__name__)

# A server that has failed, or was too slow, is asked last for so many seconds.
_AVOIDED_S = 5.0
_IDENTIFY_S = 5.0


@dataclass(frozen=True)
class ServedPart:
    """What a server says of its part.

    Attributes
    ----------
    part : Part
    name, revision : str
        Of the model, and of its document encoder.
    query_revision : str
        Of the query encoder, which each of the servers has.
    width : int
        Of a vector.
    most_rows : int
        Queries of a request.
    """

    part: Part
    name: str
    revision: str
    query_revision: str
    width: int
    most_rows: int

    @property
    def shared(self) -> tuple[Any, ...]:
        """What all servers of a collection have in common."""
        return self.part.uuid, self.part.of, self.revision, self.query_revision, self.width


class ShardServer(AsyncServerClient):
    """The inference server of a shard. It is asked once: another server may answer instead.

    Parameters
    ----------
    address : str
        Host and gRPC port.
    timeout : float
        Seconds of a request.
    """

    def __init__(self, address: str, timeout: float) -> None:
        super().__init__(address, timeout=timeout, retries=0)
        self.failed_at = float("-inf")

    def failed(self) -> None:
        """Ask other servers first for a while."""
        self.failed_at = monotonic()

    def _attempts(self, model: str) -> Attempts:
        return Attempts(self.address, model, self.timeout, 0)

    async def describe_part(self) -> ServedPart:
        """Return what the server says of its part.

        Raises
        ------
        ServerError
            It does not answer.
        CareError
            It serves no part of a collection.
        """
        config = await self._config(SCAN)
        try:
            known = json.loads(config.parameters[DESCRIPTION])
            number, of = known["shard"]
            part = Part(str(known["uuid"]), int(number), int(of))
            revision, width = str(known["revision"]), int(known["width"])
        except (ValueError, KeyError, TypeError):
            raise CareError(
                f"{self.address}: serves no shard of a collection; start it with care-accel serve --collection ... --shard 1/2"
            ) from None
        query = await self.describe("query", refresh=True)
        return ServedPart(part, query.name, revision, query.revision, width, max(1, config.max_batch_size))

    async def scan(self, inputs: Arrays) -> dict[str, Any]:
        """Return the outputs of the model ``scan``.

        Raises
        ------
        ShardGone
            The server cannot be reached.
        ShardFailed
            It has failed.
        ServerError
            The request is wrong, or the server overloaded.
        """
        try:
            answer = await self._with_retries(
                SCAN, lambda timeout: self._transport.infer(SCAN, inputs, timeout)
            )
        except asyncio.CancelledError:  # it was too slow
            self.failed()
            raise
        except ServerError as error:
            if error.gone:
                self.failed()
                raise ShardGone(f"{self.address} does not answer ({error.status})") from None
            if error.status == "INVALID_ARGUMENT" or error.overloaded:
                raise
            raise ShardFailed(str(error)) from None
        return {name: answer.as_numpy(name) for name in answer.names}


class Servers:
    """Servers by the shard that they have: of several with the same shard, each can stand for the others.

    Parameters
    ----------
    servers : sequence of ShardServer
    """

    def __init__(self, servers: Sequence[ShardServer]) -> None:
        self.all = list(servers)
        self._parts: dict[ShardServer, ServedPart] = {}
        self._told: dict[ShardServer, str] = {}
        self._turns: dict[object, Iterator[int]] = defaultdict(itertools.count)
        self._identifying = asyncio.Lock()

    @property
    def served(self) -> ServedPart:
        """What the servers have in common, and the part of one of them.

        Raises
        ------
        ServerError
            None has answered.
        """
        if not self._parts:
            raise ServerError("UNAVAILABLE", f"no server of a shard answers ({self.why})")
        return next(iter(self._parts.values()))

    @property
    def why(self) -> str:
        """Why servers are not asked."""
        return "; ".join(self._told.values()) or "none was asked"

    def part_of(self, server: ShardServer) -> Part:
        """Return the part that a server has said to have."""
        return self._parts[server].part

    def forget(self, server: ShardServer) -> None:
        """Ask a server again which shard it has."""
        self._parts.pop(server, None)

    def __contains__(self, server: ShardServer) -> bool:
        """Whether a server has said which shard it has."""
        return server in self._parts

    def of(self, number: int) -> list[ShardServer]:
        """Return the servers of a shard."""
        return [server for server, served in self._parts.items() if served.part.number == number]

    async def identify(self) -> None:
        """Ask the servers that have not said yet which shard they have; they may start later."""
        async with self._identifying:
            unknown = [server for server in self.all if server not in self._parts]
            answers = await asyncio.gather(*map(_described, unknown))
        for server, found in zip(unknown, answers, strict=True):
            if isinstance(found, str):
                self._tell(server, found)
            elif self._parts and found.shared != self.served.shared:
                self._tell(server, f"{server.address}: {_unlike(found, self.served)}")
            else:
                self._parts[server] = found
                self._told.pop(server, None)

    def _tell(self, server: ShardServer, why: str) -> None:
        if self._told.get(server) != why:
            log.warning("a server is not asked: %s", why)
            self._told[server] = why

    def in_turn(self, some: Sequence[ShardServer], work: object) -> Iterator[ShardServer]:
        """Return servers, for the same kind of work another one first each time, those that have failed just now last."""
        first = next(self._turns[work]) % len(some) if some else 0
        order = [*some[first:], *some[:first]]
        now = monotonic()
        return iter(sorted(order, key=lambda server: now - server.failed_at < _AVOIDED_S))

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.gather(*(server.close() for server in self.all))


async def _described(server: ShardServer) -> ServedPart | str:
    """Return what a server says of its part, or why it does not."""
    try:
        async with asyncio.timeout(_IDENTIFY_S):
            return await server.describe_part()
    except TimeoutError:
        return f"{server.address}: no answer in {_IDENTIFY_S:g} s"
    except CareError as reason:
        return str(reason)


def _unlike(one: ServedPart, other: ServedPart) -> str:
    if one.part.uuid != other.part.uuid:
        return "serves another collection than the other servers"
    if one.part.of != other.part.of:
        return f"serves {one.part}, where others have one of {other.part.of}; start all with the same number of shards"
    return f"has another model than the other servers ({one.name}, {one.query_revision})"


class ServedShard:
    """A shard's servers, as `Router` calls them.

    Parameters
    ----------
    servers : Servers
    number : int
        Of the shard, from 0.
    """

    def __init__(self, servers: Servers, number: int) -> None:
        self._servers, self._number = servers, number
        self._methods: dict[str, Callable[..., Any]] = {"search": self._search, "load": self._load}

    @property
    def replicas(self) -> int:
        """How many servers have the shard."""
        return max(1, len(self._servers.of(self._number)))

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of any of the servers.

        Raises
        ------
        ShardGone
            It cannot be reached, or there is none.
        """
        return await self._methods[method](*arguments)

    async def _next(self) -> tuple[ShardServer, Part]:
        if not self._servers.of(self._number):
            await self._servers.identify()
        server = next(self._servers.in_turn(self._servers.of(self._number), self._number), None)
        if server is None:
            raise ShardGone(f"no server has it: {self._servers.why}")
        return server, self._servers.part_of(server)

    async def _search(self, request: Request) -> Found | Missing:
        assert request.vectors is not None
        server, part = await self._next()
        most = self._servers.served.most_rows
        found: list[Found] = []
        starts = range(0, len(request.vectors), most)
        calls = [server.scan(search_inputs(part, request, slice(s, s + most))) for s in starts]
        for outputs in [await calls[0]] if len(calls) == 1 else await asyncio.gather(*calls):
            read = read_found(outputs, request.version)
            if isinstance(read, Missing):
                return read
            found.append(read)
        return Found([row for one in found for row in one.hits], found[0].documents)

    async def _load(self, version: int) -> Loaded:
        server, part = await self._next()
        state = read_state(await server.scan(state_inputs(part, version)))
        if not state.loaded.replica:
            self._servers.forget(server)
            raise ShardGone(f"{server.address}: {state.loaded.error}")
        return state.loaded


class FollowedServers:
    """A collection of which each server says the newest version.

    Parameters
    ----------
    servers : Servers
    """

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    @property
    def lexical(self) -> bool:
        """Whether it has a lexical index: servers of shards refuse one."""
        return False

    async def newest(self) -> Newest:
        """Return the newest version that a server has seen.

        Raises
        ------
        ShardGone
            None answers.
        """
        await self._servers.identify()
        known = [one for one in self._servers.all if one in self._servers]
        reason: Exception = ShardGone(self._servers.why)
        for server in self._servers.in_turn(known, "newest"):
            try:
                state = read_state(await server.scan(state_inputs(self._servers.part_of(server), 0)))
            except (ShardGone, CareError) as cause:
                reason = cause
                continue
            if state.loaded.ready:
                return state.newest
            self._servers.forget(server)
        raise reason
