"""Clients of an inference server, for embeddings and search: a blocking one and one for asyncio."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

from numpy.typing import ArrayLike

from care_accel.encoding.runtimes.attempts import ServerError
from care_accel.encoding.runtimes.server_connection import BaseClient, close_all
from care_accel.encoding.runtimes.server_descriptions import (
    ENCODERS,
    SEARCH,
    ServedEncoder,
    ServedSearch,
    read_encoder,
    read_search,
    search_describer,
)
from care_accel.encoding.runtimes.server_messages import (
    EncodeResult,
    RequestPlan,
    SearchResult,
    encode_plan,
    search_plan,
    with_text_positions,
)
from care_accel.encoding.runtimes.transports import (
    Answer,
    AsyncTransport,
    Configuration,
    Transport,
    open_async_transport,
    open_transport,
)
from care_accel.encoding.spec import Role
from care_accel.errors import CareError

_T = TypeVar("_T")
_R = TypeVar("_R", EncodeResult, SearchResult)
_READY_TIMEOUT = 5.0  # seconds


class ServerClient(BaseClient):
    """Blocking client of an inference server that serves a model repository of this package; thread-safe.

    Parameters
    ----------
    address : str
        Host and gRPC port, such as ``"localhost:8001"``, or HTTP port, such as ``"http://localhost:8000"``: a request takes less
        time over HTTP, but the server goes on with one that its caller has given up.
    timeout : float
        Seconds per request, retries included. The server is told; a model with a queue policy drops the request then.
    retries : int
        Maximum retries, with exponential backoff, of a server that is overloaded or has never answered. A server that
        answered before and is unavailable is restarting: it is retried until ``timeout``. No other error is retried.
    in_flight : int
        Maximum concurrent requests of one call, for lists that need more than one request.

    Raises
    ------
    CareError
        tritonclient (for HTTP httptools, too) is not installed, or an argument is invalid. A missing server is reported by the
        first request.
    """

    def __init__(self, address: str, *, timeout: float = 30.0, retries: int = 3, in_flight: int = 4) -> None:
        super().__init__(address, timeout, retries, in_flight)
        self._opened = [open_transport(self._address)]
        # For clients that are never closed: gRPC cannot close during interpreter shutdown.
        self._finalizer = weakref.finalize(self, close_all, self._opened)

    @property
    def _transport(self) -> Transport:
        if not self._opened:
            raise CareError(f"{self!r} is closed; create a new client")
        return self._opened[0]

    def ready(self) -> bool:
        """Whether a server answers and has loaded all its models."""
        try:
            return self._transport.ready(min(self.timeout, _READY_TIMEOUT))
        except self._error:
            return False

    def describe(self, role: Role, *, refresh: bool = False) -> ServedEncoder:
        """Return the server's description of an encoder; cached unless ``refresh``.

        Raises
        ------
        CareError
            The server does not answer, or serves no such encoder.
        """
        known = None if refresh else self._encoders.get(role)
        if known is None:
            self._encoders[role] = known = read_encoder(self._config(ENCODERS[role]), role, self.address)
        return known

    def describe_search(self, *, refresh: bool = False) -> ServedSearch:
        """Return the server's description of its search; cached unless ``refresh``.

        Raises
        ------
        CareError
            The server does not answer, or serves no search.
        """
        if refresh or self._search is None:
            search = self._config(SEARCH)
            described = self._config(search_describer(search))
            self._search = read_search(search, described, self.address)
        return self._search

    def encode(
        self,
        role: Role,
        texts: Sequence[str],
        task: str = "retrieval",
        *,
        batch_size: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> EncodeResult:
        """Encode texts.

        Parameters
        ----------
        role : {"query", "document"}
        texts : sequence of str
            Any number; split into requests of at most the server's max_batch_size.
        task : {"retrieval", "reranking", "sts"}
            Selects the prompt.
        batch_size : int, optional
            Maximum texts per request, if below the server's limit.
        progress : callable, optional
            Called with the number of texts after every request.

        Returns
        -------
        EncodeResult
            In the order of ``texts``.

        Raises
        ------
        CareError
            The server does not answer in time or rejects the texts, or its model changed during the call.
        """
        served = self.describe(role)
        plan = encode_plan(served, texts, task, batch_size)
        encoded = self._run(plan, progress)
        if len(plan.batches) > 1 or role not in self._encoders:
            self._require_same(served, self.describe(role, refresh=True))
        return encoded

    def search(
        self,
        texts: Sequence[str],
        k: int = 10,
        task: str = "retrieval",
        filters: Sequence[str | None] | None = None,
        subset: ArrayLike | None = None,
        *,
        partial: bool = False,
    ) -> SearchResult:
        """Return the top k documents for each query.

        Parameters
        ----------
        texts : sequence of str
        k : int
        task : {"retrieval", "reranking", "sts"}
            Selects the prompt.
        filters : sequence of str or None, optional
            Of a collection: for each text an expression over the fields, or None; see `Collection.search`.
        subset : array_like, optional
            Of an index: search only these documents, a mask ``[n]`` or positions in any order. They travel with every
            text, 8 bytes a document: load the index to search large subsets.
        partial : bool
            Of a collection in shards: answer from the others while one is away; `SearchResult.shares` tells.

        Returns
        -------
        SearchResult
            In the order of ``texts``.

        Raises
        ------
        CareError
            The server does not answer in time, or rejects the texts or k.
        """
        served = self.describe_search()
        return self._run(search_plan(served, texts, k, task, filters, subset, partial_answer=partial))

    def _run(self, plan: RequestPlan[_R], progress: Callable[[int], None] | None = None) -> _R:
        def request(batch: list[int]) -> _R:
            inputs = plan.inputs(batch)

            def send(timeout: float) -> Answer:
                return self._transport.infer(plan.model, inputs, timeout, plan.parameters)

            try:
                response = self._with_retries(plan.model, send)
            except ServerError as error:
                raise with_text_positions(error, batch) from None
            return plan.read(response, batch)

        results = []
        for batch, result in zip(plan.batches, self._send_all(request, plan.batches), strict=True):
            results.append(result)
            if progress is not None:
                progress(len(batch))
        return plan.merge(results)

    def _send_all(self, request: Callable[[list[int]], _R], batches: list[list[int]]) -> Iterator[_R]:
        if len(batches) < 2 or self.in_flight == 1:
            yield from map(request, batches)
            return
        with ThreadPoolExecutor(min(self.in_flight, len(batches)), "request") as pool:
            yield from pool.map(request, batches)

    def _config(self, model: str) -> Configuration:
        return self._with_retries(model, lambda timeout: self._transport.configuration(model, timeout))

    def _with_retries(self, model: str, send: Callable[[float], _T]) -> _T:
        attempts = self._attempts(model)
        while True:
            try:
                response = send(attempts.seconds())
            except self._error as error:
                time.sleep(self._pause(attempts, error))
            else:
                self._reached = True
                return response

    def close(self) -> None:
        """Close the connection."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncServerClient(BaseClient):
    """`ServerClient` for asyncio, bound to the event loop that first uses it.

    Parameters
    ----------
    address, timeout, retries, in_flight
        As for `ServerClient`, errors too; ``in_flight`` applies per call. Cancelling a call cancels its requests at the
        server, except over HTTP.
    """

    def __init__(self, address: str, *, timeout: float = 30.0, retries: int = 3, in_flight: int = 4) -> None:
        super().__init__(address, timeout, retries, in_flight)
        self._opened: AsyncTransport | None = None
        self._closed = False

    @property
    def _transport(self) -> AsyncTransport:
        if self._closed:
            raise CareError(f"{self!r} is closed; create a new client")
        if self._opened is None:  # connections belong to the running loop
            self._opened = open_async_transport(self._address)
        return self._opened

    async def ready(self) -> bool:
        """Whether a server answers and has loaded all its models."""
        try:
            return await self._transport.ready(min(self.timeout, _READY_TIMEOUT))
        except self._error:
            return False

    async def describe(self, role: Role, *, refresh: bool = False) -> ServedEncoder:
        """Return the server's description of an encoder; see `ServerClient.describe`."""
        known = None if refresh else self._encoders.get(role)
        if known is None:
            self._encoders[role] = known = read_encoder(
                await self._config(ENCODERS[role]), role, self.address
            )
        return known

    async def describe_search(self, *, refresh: bool = False) -> ServedSearch:
        """Return the server's description of its search; see `ServerClient.describe_search`."""
        if refresh or self._search is None:
            search = await self._config(SEARCH)
            described = await self._config(search_describer(search))
            self._search = read_search(search, described, self.address)
        return self._search

    async def encode(
        self,
        role: Role,
        texts: Sequence[str],
        task: str = "retrieval",
        *,
        batch_size: int | None = None,
    ) -> EncodeResult:
        """Encode texts; see `ServerClient.encode`."""
        served = await self.describe(role)
        plan = encode_plan(served, texts, task, batch_size)
        encoded = await self._run(plan)
        if len(plan.batches) > 1 or role not in self._encoders:
            self._require_same(served, await self.describe(role, refresh=True))
        return encoded

    async def search(
        self,
        texts: Sequence[str],
        k: int = 10,
        task: str = "retrieval",
        filters: Sequence[str | None] | None = None,
        subset: ArrayLike | None = None,
        *,
        partial: bool = False,
    ) -> SearchResult:
        """Return the top k documents for each query; see `ServerClient.search`."""
        served = await self.describe_search()
        return await self._run(search_plan(served, texts, k, task, filters, subset, partial_answer=partial))

    async def _run(self, plan: RequestPlan[_R]) -> _R:
        limit = asyncio.Semaphore(self.in_flight)

        async def request(batch: list[int]) -> _R:
            async with limit:
                inputs = plan.inputs(batch)

                def send(timeout: float) -> Awaitable[Answer]:
                    return self._transport.infer(plan.model, inputs, timeout, plan.parameters)

                try:
                    response = await self._with_retries(plan.model, send)
                except ServerError as error:
                    raise with_text_positions(error, batch) from None
                return plan.read(response, batch)

        if len(plan.batches) == 1:
            return plan.merge([await request(plan.batches[0])])
        tasks = [asyncio.ensure_future(request(batch)) for batch in plan.batches]
        try:
            return plan.merge(await asyncio.gather(*tasks))
        finally:  # after a failure, cancel the remaining requests
            for task in tasks:
                task.cancel()

    async def _config(self, model: str) -> Configuration:
        return await self._with_retries(model, lambda timeout: self._transport.configuration(model, timeout))

    async def _with_retries(self, model: str, send: Callable[[float], Awaitable[_T]]) -> _T:
        attempts = self._attempts(model)
        while True:
            try:
                response = await send(attempts.seconds())
            except self._error as error:
                await asyncio.sleep(self._pause(attempts, error))
            else:
                self._reached = True
                return response

    async def close(self) -> None:
        """Close the connection."""
        self._closed = True
        if self._opened is not None:
            await self._opened.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
