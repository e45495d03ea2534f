"""What a client asks of a way to an inference server, whichever protocol it speaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from care_accel.errors import CareError

# Inputs of a model by name; texts are arrays of objects with bytes.
Inputs = Mapping[str, NDArray[Any]]
# Parameters of a request by name.
Parameters = Mapping[str, bool]
NONE: Parameters = MappingProxyType({})
# Types of the server's tensors, by those of NumPy.
_TYPES = {
    "BYTES": np.dtype(np.object_), "BOOL": np.dtype(np.bool_),
    "INT8": np.dtype(np.int8), "INT16": np.dtype(np.int16), "INT32": np.dtype(np.int32), "INT64": np.dtype(np.int64),
    "UINT8": np.dtype(np.uint8), "UINT16": np.dtype(np.uint16), "UINT32": np.dtype(np.uint32), "UINT64": np.dtype(np.uint64),
    "FP16": np.dtype(np.float16), "FP32": np.dtype(np.float32), "FP64": np.dtype(np.float64),
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _TYPES.items()}


@dataclass(frozen=True)
class Configuration:
    """What a server says of a model.

    Attributes
    ----------
    name : str
    max_batch_size : int
        0 of a model without batches.
    parameters : mapping
        Texts by name.
    """

    name: str
    max_batch_size: int
    parameters: Mapping[str, str]


class Answer(Protocol):
    """Outputs of a model."""

    @property
    def names(self) -> Sequence[str]:
        """Names of the outputs."""

    def as_numpy(self, name: str) -> NDArray[Any] | None:
        """Return an output, or None if there is none of this name.

        Raises
        ------
        ValueError
            The bytes do not make an array of the shape.
        """


class Transport(Protocol):
    """A way to a server, shared by threads. Its errors are `InferenceServerException` of tritonclient, with a gRPC status."""

    def infer(self, model: str, inputs: Inputs, timeout: float, parameters: Parameters = NONE) -> Answer:
        """Run a model. The server is told the timeout in seconds: a queue policy may drop the request then."""

    def configuration(self, model: str, timeout: float) -> Configuration:
        """Return what the server says of a model."""

    def ready(self, timeout: float) -> bool:
        """Return whether the server has loaded all its models."""

    def close(self) -> None:
        """Close the connections."""


class AsyncTransport(Protocol):
    """`Transport` for the coroutines of one event loop."""

    async def infer(
        self, model: str, inputs: Inputs, timeout: float, parameters: Parameters = NONE
    ) -> Answer: ...

    async def configuration(self, model: str, timeout: float) -> Configuration: ...

    async def ready(self, timeout: float) -> bool: ...

    async def close(self) -> None: ...


def datatype(values: NDArray[Any]) -> str:
    """Return the server's name of an array's type."""
    return _NAMES[values.dtype]


def dtype_of(name: str) -> np.dtype[Any]:
    """Return NumPy's type of a server's.

    Raises
    ------
    ValueError
        There is none.
    """
    if name not in _TYPES:
        raise ValueError(f"its type {name} is not known")
    return _TYPES[name]


def tritonclient_module(module: str) -> Any:
    """Import a module of NVIDIA's client."""
    return required_module(module, "tritonclient[grpc]")


def required_module(module: str, package: str) -> Any:
    """Import a module that a way to a server needs, or say in an error which package has it."""
    try:
        return import_module(module)
    except ImportError as missing:
        raise CareError(
            f"{missing.name} is not installed: pip install 'care-accel[server]' (or {package})"
        ) from None
