"""gRPC, by NVIDIA's client: a call that is cancelled is cancelled in the server, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from care_accel.encoding.runtimes.transports.address import Address
from care_accel.encoding.runtimes.transports.interface import (
    NONE,
    Configuration,
    Inputs,
    Parameters,
    datatype,
    tritonclient_module,
)

# Reconnect within the backoff of `Attempts`; gRPC's own backoff starts at a second.
CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class GrpcAnswer:
    """Outputs of a model."""

    def __init__(self, result: Any) -> None:
        self._result = result
        self.as_numpy = result.as_numpy

    @property
    def names(self) -> Sequence[str]:
        """Names of the outputs."""
        return [output.name for output in self._result.get_response().outputs]


class GrpcTransport:
    """Blocking calls; see `Transport`."""

    def __init__(self, address: Address) -> None:
        self._module = tritonclient_module("tritonclient.grpc")
        self._client = self._module.InferenceServerClient(str(address), channel_args=CHANNEL)

    def infer(self, model: str, inputs: Inputs, timeout: float, parameters: Parameters = NONE) -> GrpcAnswer:
        """Run a model."""
        tensors = _tensors(self._module, inputs)
        return GrpcAnswer(self._client.infer(model, tensors, **_options(timeout, parameters)))

    def configuration(self, model: str, timeout: float) -> Configuration:
        """Return what the server says of a model."""
        return _read(self._client.get_model_config(model, client_timeout=timeout).config)

    def ready(self, timeout: float) -> bool:
        """Return whether the server has loaded all its models."""
        return bool(self._client.is_server_ready(client_timeout=timeout))

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


class AsyncGrpcTransport:
    """Calls of coroutines; see `AsyncTransport`. Its channel binds to the running event loop."""

    def __init__(self, address: Address) -> None:
        self._module = tritonclient_module("tritonclient.grpc.aio")
        self._client = self._module.InferenceServerClient(str(address), channel_args=CHANNEL)

    async def infer(
        self, model: str, inputs: Inputs, timeout: float, parameters: Parameters = NONE
    ) -> GrpcAnswer:
        """Run a model."""
        tensors = _tensors(self._module, inputs)
        return GrpcAnswer(await self._client.infer(model, tensors, **_options(timeout, parameters)))

    async def configuration(self, model: str, timeout: float) -> Configuration:
        """Return what the server says of a model."""
        return _read((await self._client.get_model_config(model, client_timeout=timeout)).config)

    async def ready(self, timeout: float) -> bool:
        """Return whether the server has loaded all its models."""
        return bool(await self._client.is_server_ready(client_timeout=timeout))

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()


def _options(timeout: float, parameters: Parameters) -> dict[str, Any]:
    return {
        "timeout": int(1e6 * timeout),
        "client_timeout": timeout,
        "parameters": dict(parameters) or None,
    }


def _tensors(module: Any, inputs: Inputs) -> list[Any]:
    tensors = []
    for name, values in inputs.items():
        tensors.append(module.InferInput(name, values.shape, datatype(values)))
        tensors[-1].set_data_from_numpy(values)
    return tensors


def _read(config: Any) -> Configuration:
    parameters = {name: value.string_value for name, value in config.parameters.items()}
    return Configuration(config.name, config.max_batch_size, parameters)
