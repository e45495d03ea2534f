"""Clients of a server that misbehaves as it is told; what it needs is imported only where a test asks for it."""

import asyncio
from collections.abc import Iterator

import pytest

from care_accel.encoding import AsyncServerClient, ServerClient


@pytest.fixture
def service():
    from .misbehaving import Misbehaving

    return Misbehaving()


@pytest.fixture(params=["grpc", "http"])
def protocol(request) -> str:
    """Return what `service` and its clients speak."""
    return request.param


@pytest.fixture
def start(protocol):
    """Return the function that starts a server of a service."""
    from . import misbehaving, misbehaving_http

    return (misbehaving if protocol == "grpc" else misbehaving_http).start


@pytest.fixture
def prefix(protocol) -> str:
    """Return what goes before host and port in an address."""
    return "" if protocol == "grpc" else "http://"


@pytest.fixture
def address(service, start) -> Iterator[str]:
    """Return the address at which `service` answers."""
    server, address = start(service)
    yield address
    server.stop(0)


class Waiting:
    """An `AsyncServerClient` whose methods wait, so that a test asks both clients alike."""

    def __init__(self, *arguments, **options):
        self.runner = asyncio.Runner()
        self.client = AsyncServerClient(*arguments, **options)

    def __getattr__(self, name):
        method = getattr(self.client, name)
        return lambda *arguments, **options: self.runner.run(method(*arguments, **options))

    def end(self):
        self.runner.run(self.client.close())
        self.runner.close()


@pytest.fixture(params=["sync", "async"])
def connect(request):
    """Return a function that makes a client of either kind, with the same calls."""
    made = []

    def connect(address, **options):
        made.append((ServerClient if request.param == "sync" else Waiting)(address, **options))
        return made[-1]

    yield connect
    for one in made:
        (one.close if isinstance(one, ServerClient) else one.end)()


@pytest.fixture
def client(connect, address):
    return connect(address)


@pytest.fixture
def server_at(start):
    """Return the function that starts a server, whose servers end with the test."""
    started = []

    def at(service, port):
        started.append(start(service, port)[0])
        return started[-1]

    yield at
    for one in started:
        one.stop(0)
