"""Texts to vectors and hits by an inference server, over gRPC: a client that waits and one for asyncio."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any, Self, TypeVar

from care_accel.encoding.runtimes.attempts import Attempts, ServerError, checked_address, checked_limits
from care_accel.encoding.runtimes.server_messages import (
    ENCODERS,
    SCAN,
    SEARCH,
    Encoded,
    Found,
    Plan,
    ServedEncoder,
    ServedSearch,
    encode_plan,
    read_encoder,
    read_search,
    search_plan,
)
from care_accel.encoding.spec import Role
from care_accel.errors import CareError

_T = TypeVar("_T")
_A = TypeVar("_A", Encoded, Found)

# A channel that was refused tries again within the pauses of `Attempts`; gRPC's own pause starts at a second.
_CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
_READY = 5.0  # seconds for the question whether a server is ready


class _Client:
    """What both clients have: limits, and what was learnt of the server."""

    def __init__(self, address: str, timeout: float, retries: int, in_flight: int) -> None:
        checked_limits(timeout, retries, in_flight)
        self.address = checked_address(address)
        self.timeout = timeout
        self.retries = retries
        self.in_flight = in_flight
        self._encoders: dict[Role, ServedEncoder] = {}
        self._search: ServedSearch | None = None
        self._reached = False
        self._error = _tritonclient("tritonclient.utils").InferenceServerException

    def _attempts(self, model: str) -> Attempts:
        return Attempts(self.address, model, self.timeout, self.retries, self._reached)

    def _pause(self, attempts: Attempts, error: Any) -> float:
        if error.status() == "StatusCode.UNAVAILABLE":
            self._encoders = {}  # the server that comes back may serve others
        return attempts.pause(error)

    def _require_same(self, before: ServedEncoder, after: ServedEncoder) -> None:
        if before != after:
            raise CareError(
                f"{self.address}: began to serve another {before.role} encoder while texts were encoded "
                f"({before.revision}, now {after.revision}); encode them again"
            )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address}>"


class ServerClient(_Client):
    """Asks an inference server that serves a repository of this package; threads may share one.

    Parameters
    ----------
    address : str
        Host and gRPC port, such as ``"localhost:8001"``.
    timeout : float
        Seconds that one request may take, its retries included. The server drops a request from its queue when
        the time is over.
    retries : int
        How often a request is sent again when the server is unavailable, after a pause that doubles. That is one whose
        queue is full, or one that never answered; a server that answered before and is away starts anew, and is waited
        for until ``timeout``. Nothing else is retried.
    in_flight : int
        Requests on their way at most, for lists that need more than one.

    Raises
    ------
    CareError
        tritonclient is not installed, or an argument makes no sense. That no server answers is said by the first
        request.
    """

    def __init__(self, address: str, *, timeout: float = 30.0, retries: int = 3, in_flight: int = 4) -> None:
        super().__init__(address, timeout, retries, in_flight)
        module = _tritonclient("tritonclient.grpc")
        self._opened = [module.InferenceServerClient(self.address, channel_args=_CHANNEL)]
        # Whoever does not close it: gRPC cannot do so any more once the interpreter takes its modules apart.
        self._end = weakref.finalize(self, _close, self._opened)

    @property
    def _client(self) -> Any:
        if not self._opened:
            raise CareError(f"{self!r} is closed; make another one")
        return self._opened[0]

    def ready(self) -> bool:
        """Tell whether a server answers and has all its models loaded."""
        try:
            return self._client.is_server_ready(client_timeout=min(self.timeout, _READY))
        except self._error:
            return False

    def describe(self, role: Role, *, anew: bool = False) -> ServedEncoder:
        """Return what the server says of an encoder; asked for once, or ``anew``.

        Raises
        ------
        CareError
            The server does not answer, or serves no such encoder.
        """
        known = None if anew else self._encoders.get(role)
        if known is None:
            self._encoders[role] = known = read_encoder(self._config(ENCODERS[role]), role, self.address)
        return known

    def describe_search(self, *, anew: bool = False) -> ServedSearch:
        """Return what the server says of its search; asked for once, or ``anew``.

        Raises
        ------
        CareError
            The server does not answer, or serves no search.
        """
        if anew or self._search is None:
            self._search = read_search(self._config(SEARCH), self._config(SCAN), self.address)
        return self._search

    def encode(
        self,
        role: Role,
        texts: Sequence[str],
        task: str = "retrieval",
        *,
        batch_size: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Encoded:
        """Encode some texts.

        Parameters
        ----------
        role : {"query", "document"}
        texts : sequence of str
            As many as there are: what the server does not take at a time is shared out.
        task : {"retrieval", "reranking", "sts"}
            Chooses the prompt.
        batch_size : int, optional
            Texts in a request at most, where the server takes more.
        progress : callable, optional
            Called with the number of texts after every request.

        Returns
        -------
        Encoded
            In the order of ``texts``.

        Raises
        ------
        CareError
            The server does not answer in time, refuses the texts, or its model changed in between.
        """
        served = self.describe(role)
        plan = encode_plan(served, texts, task, batch_size)
        encoded = self._run(plan, progress)
        if len(plan.portions) > 1 or role not in self._encoders:
            self._require_same(served, self.describe(role, anew=True))
        return encoded

    def search(self, texts: Sequence[str], k: int = 10, task: str = "retrieval") -> Found:
        """Find the k best documents of each query.

        Parameters
        ----------
        texts : sequence of str
        k : int
        task : {"retrieval", "reranking", "sts"}
            Chooses the prompt.

        Returns
        -------
        Found
            In the order of ``texts``.

        Raises
        ------
        CareError
            The server does not answer in time, or refuses the texts or k.
        """
        return self._run(search_plan(self.describe_search(), texts, k, task))

    def _run(self, plan: Plan[_A], progress: Callable[[int], None] | None = None) -> _A:
        def ask(portion: list[int]) -> _A:
            inputs = plan.inputs(portion)

            def send(left: float) -> Any:
                return self._client.infer(plan.model, inputs, timeout=int(1e6 * left), client_timeout=left)

            try:
                result = self._tried(plan.model, send)
            except ServerError as error:
                raise plan.placed(error, portion) from None
            return plan.read(result, portion)

        answers = []
        for portion, answer in zip(plan.portions, self._answers(ask, plan.portions), strict=True):
            answers.append(answer)
            if progress is not None:
                progress(len(portion))
        return plan.merged(answers)

    def _answers(self, ask: Callable[[list[int]], _A], portions: list[list[int]]) -> Iterator[_A]:
        if len(portions) < 2 or self.in_flight == 1:
            yield from map(ask, portions)
            return
        with ThreadPoolExecutor(min(self.in_flight, len(portions)), "ask") as pool:
            yield from pool.map(ask, portions)

    def _config(self, model: str) -> Any:
        return self._tried(
            model, lambda left: self._client.get_model_config(model, client_timeout=left)
        ).config

    def _tried(self, model: str, send: Callable[[float], _T]) -> _T:
        attempts = self._attempts(model)
        while True:
            try:
                answer = send(attempts.seconds())
            except self._error as error:
                time.sleep(self._pause(attempts, error))
            else:
                self._reached = True
                return answer

    def close(self) -> None:
        """Close the connection."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncServerClient(_Client):
    """`ServerClient` for asyncio; one belongs to the event loop that first uses it.

    Parameters
    ----------
    address, timeout, retries, in_flight
        As for `ServerClient`, errors too; ``in_flight`` holds for each call. A call that is cancelled is cancelled at
        the server too.
    """

    def __init__(self, address: str, *, timeout: float = 30.0, retries: int = 3, in_flight: int = 4) -> None:
        super().__init__(address, timeout, retries, in_flight)
        self._module = _tritonclient("tritonclient.grpc.aio")
        self._opened: Any = None
        self._closed = False

    @property
    def _client(self) -> Any:
        if self._closed:
            raise CareError(f"{self!r} is closed; make another one")
        if self._opened is None:  # a channel takes the running loop when it is made
            self._opened = self._module.InferenceServerClient(self.address, channel_args=_CHANNEL)
        return self._opened

    async def ready(self) -> bool:
        """Tell whether a server answers and has all its models loaded."""
        try:
            return await self._client.is_server_ready(client_timeout=min(self.timeout, _READY))
        except self._error:
            return False

    async def describe(self, role: Role, *, anew: bool = False) -> ServedEncoder:
        """Return what the server says of an encoder; see `ServerClient.describe`."""
        known = None if anew else self._encoders.get(role)
        if known is None:
            self._encoders[role] = known = read_encoder(
                await self._config(ENCODERS[role]), role, self.address
            )
        return known

    async def describe_search(self, *, anew: bool = False) -> ServedSearch:
        """Return what the server says of its search; see `ServerClient.describe_search`."""
        if anew or self._search is None:
            self._search = read_search(await self._config(SEARCH), await self._config(SCAN), self.address)
        return self._search

    async def encode(
        self,
        role: Role,
        texts: Sequence[str],
        task: str = "retrieval",
        *,
        batch_size: int | None = None,
    ) -> Encoded:
        """Encode some texts; see `ServerClient.encode`."""
        served = await self.describe(role)
        plan = encode_plan(served, texts, task, batch_size)
        encoded = await self._run(plan)
        if len(plan.portions) > 1 or role not in self._encoders:
            self._require_same(served, await self.describe(role, anew=True))
        return encoded

    async def search(self, texts: Sequence[str], k: int = 10, task: str = "retrieval") -> Found:
        """Find the k best documents of each query; see `ServerClient.search`."""
        return await self._run(search_plan(await self.describe_search(), texts, k, task))

    async def _run(self, plan: Plan[_A]) -> _A:
        places = asyncio.Semaphore(self.in_flight)

        async def ask(portion: list[int]) -> _A:
            async with places:
                inputs = plan.inputs(portion)

                def send(left: float) -> Awaitable[Any]:
                    return self._client.infer(
                        plan.model, inputs, timeout=int(1e6 * left), client_timeout=left
                    )

                try:
                    result = await self._tried(plan.model, send)
                except ServerError as error:
                    raise plan.placed(error, portion) from None
                return plan.read(result, portion)

        if len(plan.portions) == 1:
            return plan.merged([await ask(plan.portions[0])])
        asked = [asyncio.ensure_future(ask(portion)) for portion in plan.portions]
        try:
            return plan.merged(await asyncio.gather(*asked))
        finally:  # after a failure, nobody waits for the others
            for one in asked:
                one.cancel()

    async def _config(self, model: str) -> Any:
        answer = await self._tried(
            model, lambda left: self._client.get_model_config(model, client_timeout=left)
        )
        return answer.config

    async def _tried(self, model: str, send: Callable[[float], Awaitable[_T]]) -> _T:
        attempts = self._attempts(model)
        while True:
            try:
                answer = await send(attempts.seconds())
            except self._error as error:
                await asyncio.sleep(self._pause(attempts, error))
            else:
                self._reached = True
                return answer

    async def close(self) -> None:
        """Close the connection."""
        self._closed = True
        if self._opened is not None:
            await self._opened.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _close(opened: list[Any]) -> None:
    while opened:
        opened.pop().close()


def _tritonclient(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as missing:
        raise CareError(
            f"{missing.name} is not installed: pip install 'care-accel[server]' (or tritonclient[grpc])"
        ) from None
