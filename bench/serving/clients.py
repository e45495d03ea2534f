"""Requests of a load, built before the clock starts, and the clients that send them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import grpc
import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio
from tritonclient.grpc import service_pb2

from care_accel.encoding.runtimes.transports import Address
from care_accel.encoding.runtimes.transports.http import AsyncHttpTransport
from care_accel.encoding.runtimes.transports.http_messages import Messages, Reply, read_answer

METHOD = "/inference.GRPCInferenceService/ModelInfer"
_HTTP2 = [("grpc.max_receive_message_length", -1)]
_TIMEOUT = 60.0  # seconds of a request over HTTP


class Request(NamedTuple):
    """A request to a model: as tritonclient inputs, and serialised."""

    model: str
    inputs: list[triton.InferInput]
    raw: bytes


def request(model: str, texts: Sequence[str], *, k: int | None = None) -> Request:
    """Build a request of some texts."""
    columns: list[tuple[str, str, Any]] = [("TEXT", "BYTES", [[text.encode()] for text in texts])]
    if k is not None:
        columns.append(("K", "INT32", [[k]] * len(texts)))
    message = service_pb2.ModelInferRequest(model_name=model)
    inputs = []
    for name, kind, rows in columns:
        given = triton.InferInput(name, [len(texts), 1], kind)
        given.set_data_from_numpy(np.array(rows, dtype=triton.triton_to_np_dtype(kind)))
        message.inputs.add(name=name, datatype=kind, shape=[len(texts), 1])
        message.raw_input_contents.append(given._get_content())  # nothing public gives the bytes
        inputs.append(given)
    return Request(model, inputs, message.SerializeToString())


def http_request(model: str, texts: Sequence[str], address: str) -> Request:
    """Build a request of some texts over HTTP."""
    column = np.array([[text.encode()] for text in texts], np.object_)
    return Request(model, [], Messages(Address.read(address)).infer(model, {"TEXT": column}, _TIMEOUT))


def json_request(model: str, texts: Sequence[str]) -> Request:
    """Build a JSON request of one text."""
    return Request(model, [], json.dumps({"text": texts[0]}).encode())


def requests(model: str, texts: Iterable[str], rows: int = 1, **options: Any) -> Iterator[Request]:
    """Yield requests of ``rows`` texts each."""
    source = iter(texts)
    while len(some := list(itertools.islice(source, rows))) == rows:
        yield request(model, some, **options)


def outputs(answer: bytes | Reply) -> dict[str, Any]:
    """Return the tensors of an answer."""
    if isinstance(answer, Reply):
        read = read_answer(answer)
        return {name: read.as_numpy(name) for name in read.names}
    parsed = triton.InferResult(service_pb2.ModelInferResponse.FromString(answer))
    return {tensor.name: parsed.as_numpy(tensor.name) for tensor in parsed.get_response().outputs}


class _Raw:
    """Bytes out, bytes in."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=_HTTP2)
        self._call = self._channel.unary_unary(METHOD)

    async def infer(self, one: Request) -> bytes:
        return await self._call(one.raw)

    async def close(self) -> None:
        await self._channel.close()


class _Tritonclient:
    """tritonclient's own call, with every output converted to an array."""

    def __init__(self, address: str) -> None:
        self._client = tritonclient.grpc.aio.InferenceServerClient(address)

    async def infer(self, one: Request) -> bytes:
        answer = await self._client.infer(one.model, one.inputs)
        for tensor in answer.get_response().outputs:
            answer.as_numpy(tensor.name)
        return b""

    async def close(self) -> None:
        await self._client.close()


class _Http:
    """Bytes out, bytes in, over HTTP."""

    def __init__(self, address: str) -> None:
        self._transport = AsyncHttpTransport(Address.read(address))

    async def infer(self, one: Request) -> Reply:
        answer = await self._transport.exchange(one.raw, _TIMEOUT)
        if answer.status != 200:
            read_answer(answer)  # raises what it says
        return answer

    async def close(self) -> None:
        await self._transport.close()


class _Json:
    """POST and JSON, for hand-written servers; needs aiohttp, which tritonclient's HTTP client brings."""

    def __init__(self, address: str) -> None:
        import aiohttp

        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self._address, self._headers = address, {"Content-Type": "application/json"}

    async def infer(self, one: Request) -> bytes:
        place = f"{self._address}/{one.model}"
        async with self._session.post(place, data=one.raw, headers=self._headers) as answer:
            answer.raise_for_status()
            return await answer.read()

    async def close(self) -> None:
        await self._session.close()


CLIENTS = {"raw": _Raw, "http": _Http, "tritonclient": _Tritonclient, "json": _Json}
