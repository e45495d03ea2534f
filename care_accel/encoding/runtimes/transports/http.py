"""HTTP/1.1 over connections that stay open: a request takes some 0.35 ms less than over gRPC, most of it in the client.

The server does not notice that a caller has gone or waits no longer: it answers nobody then (triton-inference-server/server,
pull request 8982). A connection is replaced after two seconds, so that a server can stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

from care_accel.encoding.runtimes.transports.address import Address
from care_accel.encoding.runtimes.transports.http_messages import (
    HttpAnswer,
    Messages,
    Reply,
    failure,
    read_answer,
    read_configuration,
)
from care_accel.encoding.runtimes.transports.http_pool import Connection, Pool, later_on_a_thread
from care_accel.encoding.runtimes.transports.interface import (
    NONE,
    Configuration,
    Inputs,
    Parameters,
    required_module,
)

_CHUNK = 1 << 16  # bytes


class _Base:
    """Messages, the parser, and what failures mean."""

    def __init__(self, address: Address) -> None:
        httptools = required_module("httptools", "httptools")
        self._parser, self._not_http = httptools.HttpResponseParser, httptools.HttpParserError
        self._messages = Messages(address)
        self._host, self._port = address.host.strip("[]"), address.port

    def _fails(self, cause: Exception) -> Exception:
        """Return what a failed exchange means, as the gRPC client says it."""
        if isinstance(cause, TimeoutError):
            return failure("DEADLINE_EXCEEDED", "Deadline Exceeded")
        if isinstance(cause, self._not_http):
            return failure(
                "UNKNOWN", f"it does not speak HTTP/1.1 ({cause}); give the address of its HTTP port"
            )
        return failure("UNAVAILABLE", getattr(cause, "strerror", None) or str(cause))


class HttpTransport(_Base):
    """Blocking calls; see `Transport`. Each thread that waits for an answer has a connection of its own."""

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self.pool: Pool[socket.socket] = Pool(socket.socket.close, later_on_a_thread)

    def infer(self, model: str, inputs: Inputs, timeout: float, parameters: Parameters = NONE) -> HttpAnswer:
        """Run a model."""
        return read_answer(self.exchange(self._messages.infer(model, inputs, timeout, parameters), timeout))

    def configuration(self, model: str, timeout: float) -> Configuration:
        """Return what the server says of a model."""
        request = self._messages.get(f"/v2/models/{model}/config")
        return read_configuration(self.exchange(request, timeout))

    def ready(self, timeout: float) -> bool:
        """Return whether the server has loaded all its models."""
        return self.exchange(self._messages.get("/v2/health/ready"), timeout).status == 200

    def exchange(self, request: bytes, timeout: float) -> Reply:
        """Send the bytes of a request, and return its answer."""
        deadline = time.monotonic() + timeout
        while True:
            kept = self.pool.take()
            reply = Reply(self._parser)
            try:
                connection = kept or Connection(self._connect(timeout), time.monotonic())
                try:
                    self._send(connection.link, request, reply, deadline)
                except BaseException:
                    connection.link.close()
                    raise
            except (OSError, self._not_http) as cause:
                # A server may close a connection that waits, and has not taken this request then.
                if kept is None or reply.begun or isinstance(cause, TimeoutError):
                    raise self._fails(cause) from None
                continue
            if reply.keeps:
                self.pool.put(connection)
            else:
                connection.link.close()
            return reply

    def _connect(self, timeout: float) -> socket.socket:
        link = socket.create_connection((self._host, self._port), timeout)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return link

    @staticmethod
    def _send(link: socket.socket, request: bytes, reply: Reply, deadline: float) -> None:
        link.settimeout(_left(deadline))
        link.sendall(request)
        while not reply.complete:
            link.settimeout(_left(deadline))
            reply.feed(_arrived(link.recv(_CHUNK)))

    def close(self) -> None:
        """Close the connections that wait."""
        self.pool.clear()


class AsyncHttpTransport(_Base):
    """Calls of coroutines; see `AsyncTransport`. Each call that waits for an answer has a connection of its own."""

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self.pool: Pool[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = Pool(
            lambda link: link[1].close(), asyncio.get_running_loop().call_later
        )

    async def infer(
        self, model: str, inputs: Inputs, timeout: float, parameters: Parameters = NONE
    ) -> HttpAnswer:
        """Run a model."""
        request = self._messages.infer(model, inputs, timeout, parameters)
        return read_answer(await self.exchange(request, timeout))

    async def configuration(self, model: str, timeout: float) -> Configuration:
        """Return what the server says of a model."""
        request = self._messages.get(f"/v2/models/{model}/config")
        return read_configuration(await self.exchange(request, timeout))

    async def ready(self, timeout: float) -> bool:
        """Return whether the server has loaded all its models."""
        return (await self.exchange(self._messages.get("/v2/health/ready"), timeout)).status == 200

    async def exchange(self, request: bytes, timeout: float) -> Reply:
        """Send the bytes of a request, and return its answer."""
        try:
            async with asyncio.timeout(timeout):
                return await self._answered(request)
        except (OSError, self._not_http) as cause:
            raise self._fails(cause) from None

    async def _answered(self, request: bytes) -> Reply:
        while True:
            kept = self.pool.take()
            reply = Reply(self._parser)
            connection = kept or Connection(
                await asyncio.open_connection(self._host, self._port), time.monotonic()
            )
            reader, writer = connection.link
            try:
                writer.write(request)
                while not reply.complete:
                    reply.feed(_arrived(await reader.read(_CHUNK)))
            except BaseException as cause:
                writer.close()
                if kept is not None and not reply.begun and isinstance(cause, OSError):
                    continue  # as for `HttpTransport`
                raise
            if reply.keeps:
                self.pool.put(connection)
            else:
                writer.close()
            return reply

    async def close(self) -> None:
        """Close the connections that wait."""
        for _, writer in self.pool.clear():
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _arrived(data: bytes) -> bytes:
    if not data:
        raise ConnectionError("the server has closed the connection")
    return data


def _left(deadline: float) -> float:
    """Return the seconds until a deadline."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
