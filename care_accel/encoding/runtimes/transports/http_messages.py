"""Requests over HTTP/1.1 as bytes, and their answers: the server's binary tensors, without its JSON of numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, deserialize_bytes_tensor, serialize_byte_tensor

from care_accel.encoding.runtimes.transports.address import Address
from care_accel.encoding.runtimes.transports.interface import (
    NONE,
    Configuration,
    Inputs,
    Parameters,
    datatype,
    dtype_of,
)

_HEADER_LENGTH = "Inference-Header-Content-Length"
# The statuses of gRPC that the server says by these of HTTP; 429, 502 and 504 are those of proxies.
_STATUSES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 409: "ALREADY_EXISTS",
    413: "RESOURCE_EXHAUSTED", 429: "UNAVAILABLE", 499: "CANCELLED", 500: "INTERNAL", 501: "UNIMPLEMENTED",
    502: "UNAVAILABLE", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip


def failure(status: str, message: str) -> Exception:
    """Return an error as tritonclient's gRPC client raises it."""
    return InferenceServerException(message, status=f"StatusCode.{status}")


class Messages:
    """Requests to one server.

    Parameters
    ----------
    address : Address
    """

    def __init__(self, address: Address) -> None:
        self._host = f"HTTP/1.1\r\nHost: {address.authority}\r\n"

    def get(self, path: str) -> bytes:
        """Return a request for a path."""
        return f"GET {path} {self._host}\r\n".encode()

    def infer(self, model: str, inputs: Inputs, timeout: float, parameters: Parameters = NONE) -> bytes:
        """Return a request to a model, with the seconds after which a queue policy of the server may drop it."""
        tensors, data = [], []
        for name, values in inputs.items():
            kind = datatype(values)
            texts = kind == "BYTES" and values.size
            data.append(serialize_byte_tensor(values).item() if texts else values.tobytes())
            # Written by hand: a JSON encoder takes as long as all the rest of this.
            tensors.append(
                f'{{"name":"{name}","shape":{list(values.shape)},"datatype":"{kind}",'
                f'"parameters":{{"binary_data_size":{len(data[-1])}}}}}'
            )
        more = "".join(f',"{name}":{json.dumps(value)}' for name, value in parameters.items())
        head = (
            f'{{"inputs":[{",".join(tensors)}],'
            f'"parameters":{{"binary_data_output":true,"timeout":{int(1e6 * timeout)}{more}}}}}'
        ).encode()
        length = len(head) + sum(map(len, data))
        start = (
            f"POST /v2/models/{model}/infer {self._host}Content-Type: application/octet-stream\r\n"
            f"{_HEADER_LENGTH}: {len(head)}\r\nContent-Length: {length}\r\n\r\n"
        ).encode()
        return b"".join((start, head, *data))


class Reply:
    """An answer as it arrives; llhttp reads it.

    Attributes
    ----------
    complete : bool
    begun : bool
        Whether anything has arrived.
    status : int
        Of a complete answer.
    keeps : bool
        Whether the connection can be used again.
    """

    def __init__(self, parser: Any) -> None:
        self.complete = self.begun = self.keeps = False
        self.status = 0
        self._parts: list[bytes] = []
        self._head = b""
        self._parser = parser(self)

    def feed(self, data: bytes) -> None:
        """Take what has arrived; raises `httptools.HttpParserError` if it is not HTTP/1.1."""
        self.begun = True
        self._parser.feed_data(data)

    @property
    def body(self) -> bytes:
        """The whole body."""
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    @property
    def header_length(self) -> int:
        """Bytes of JSON before the tensors; all of them where the server sends none."""
        return int(self._head) if self._head else len(self.body)

    # Called by the parser.
    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == len(_HEADER_LENGTH) and name.lower() == _HEADER_LENGTH.lower().encode():
            self._head = value

    def on_body(self, data: bytes) -> None:
        self._parts.append(data)

    def on_message_complete(self) -> None:
        # The parser forgets it with the next bytes that it awaits.
        self.complete, self.keeps = True, self._parser.should_keep_alive()
        self.status = self._parser.get_status_code()


class HttpAnswer:
    """Outputs of a model.

    Parameters
    ----------
    head : dict
        The JSON of the answer.
    body : bytes
    start : int
        Where the tensors begin.
    """

    def __init__(self, head: dict[str, Any], body: bytes, start: int) -> None:
        outputs = head["outputs"]
        sizes = [int(output["parameters"]["binary_data_size"]) for output in outputs]
        ends = accumulate(sizes, initial=start)
        self._body = body
        self._outputs = {
            str(output["name"]): (str(output["datatype"]), output["shape"], *place)
            for output, place in zip(outputs, pairwise(ends), strict=True)
        }

    @property
    def names(self) -> Sequence[str]:
        """Names of the outputs."""
        return list(self._outputs)

    def as_numpy(self, name: str) -> NDArray[Any] | None:
        """Return an output, or None if there is none of this name.

        Raises
        ------
        ValueError
            The bytes do not make an array of the shape.
        """
        if name not in self._outputs:
            return None
        kind, shape, start, end = self._outputs[name]
        if kind == "BYTES":
            values = deserialize_bytes_tensor(self._body[start:end])
        else:  # of bytes that may be changed: so may the array
            values = np.frombuffer(bytearray(self._body[start:end]), dtype_of(kind))
        return values.reshape(shape)


def read_answer(reply: Reply) -> HttpAnswer:
    """Read the answer of a model.

    Raises
    ------
    InferenceServerException
        It is an error, or not an answer of an inference server.
    """
    _require_success(reply)
    start = reply.header_length
    try:
        return HttpAnswer(json.loads(reply.body[:start]), reply.body, start)
    except (ValueError, KeyError, TypeError) as cause:
        raise _unexpected(cause) from None


def read_configuration(reply: Reply) -> Configuration:
    """Read what a server says of a model; raises as `read_answer`."""
    _require_success(reply)
    try:
        said = json.loads(reply.body)
        parameters = {
            str(name): str(value.get("string_value", ""))
            for name, value in said.get("parameters", {}).items()
        }
        return Configuration(str(said["name"]), int(said.get("max_batch_size", 0)), parameters)
    except (ValueError, KeyError, TypeError, AttributeError) as cause:
        raise _unexpected(cause) from None


def _unexpected(cause: Exception) -> Exception:
    return failure("UNKNOWN", f"it answers, but not as an inference server ({cause!r})")


def _require_success(reply: Reply) -> None:
    if reply.status == 200:
        return
    try:
        message = json.loads(reply.body)["error"]
    except (ValueError, KeyError, TypeError):
        message = None
    if not isinstance(message, str):
        message = reply.body[:200].decode("utf-8", "replace").strip() or "no reason given"
        message = f"HTTP status {reply.status}: {message}"
    raise failure(_STATUSES.get(reply.status, "UNKNOWN"), message)
