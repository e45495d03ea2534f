"""Ways to an inference server: gRPC, and HTTP for the shortest time of a request. An address says which."""

from __future__ import annotations

from care_accel.encoding.runtimes.transports.address import GRPC, HTTP, Address
from care_accel.encoding.runtimes.transports.interface import (
    Answer,
    AsyncTransport,
    Configuration,
    Inputs,
    Transport,
    tritonclient_module,
)


def open_transport(address: Address) -> Transport:
    """Return the way to a server for threads.

    Raises
    ------
    CareError
        tritonclient, or httptools for HTTP, is not installed. A missing server is reported by the first request.
    """
    if address.scheme == HTTP:
        from care_accel.encoding.runtimes.transports.http import HttpTransport

        return HttpTransport(address)
    from care_accel.encoding.runtimes.transports.grpc import GrpcTransport

    return GrpcTransport(address)


def open_async_transport(address: Address) -> AsyncTransport:
    """Return the way to a server for the coroutines of the running event loop; else as `open_transport`."""
    if address.scheme == HTTP:
        from care_accel.encoding.runtimes.transports.http import AsyncHttpTransport

        return AsyncHttpTransport(address)
    from care_accel.encoding.runtimes.transports.grpc import AsyncGrpcTransport

    return AsyncGrpcTransport(address)


__all__ = [
    "GRPC",
    "HTTP",
    "Address",
    "Answer",
    "AsyncTransport",
    "Configuration",
    "Inputs",
    "Transport",
    "open_async_transport",
    "open_transport",
    "tritonclient_module",
]
