"""A gateway in front of a server in memory: the real application, with vectors that are quick to make."""

import asyncio
import json
import threading
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("starlette", reason="needs the extra gateway")

import uvicorn
from starlette.testclient import TestClient

from care_accel.encoding.spec import EncoderSpec
from care_accel.serving.gateway import Settings
from care_accel.serving.gateway.app import create_app
from care_accel.serving.gateway.listener import listen, url_of

WIDTH = 8


class Memory:
    """Stands where the client of an inference server does; keeps what it was asked."""

    def __init__(
        self, documents=("高血压患者应低盐饮食。", {"title": "糖尿病", "text": "监测血糖。"}), order=None
    ):
        self.documents = list(documents)
        self.document_ids = None  # of a collection, the documents' own ids
        self.order = order or "normalize-then-slice"
        self.name = "care-mini"
        self.asked = []
        self.fault = None  # raised by the next calls
        self.hold = None  # an asyncio.Event that calls wait for
        self.cancelled = 0
        self.alive = True
        self.closed = False
        self.times = (300.0, 4200.0, 80.0)

    async def ready(self):
        return self.alive

    async def describe(self, role, *, refresh=False):
        if self.fault is not None:
            raise self.fault
        return SimpleNamespace(
            name=self.name,
            role=role,
            width=WIDTH,
            revision=f"{role}-1",
            fingerprint="f",
            spec=EncoderSpec(pooling="first", order=self.order, width=WIDTH),
            symmetric=False,
            max_batch_size=32,
        )

    @staticmethod
    def vectors(role, texts):
        """Return what this server answers: a row a text, which differs by role."""
        seeds = [sum(text.encode()) + (role == "query") for text in texts]
        return np.array([np.random.default_rng(seed).normal(size=WIDTH) for seed in seeds], np.float32)

    async def _work(self, *asked):
        self.asked.append(asked)
        try:
            if self.hold is not None:
                await self.hold.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.fault is not None:
            raise self.fault

    async def encode(self, role, texts, task="retrieval"):
        await self._work("encode", role, texts, task)
        tokens = np.array([len(text) for text in texts], np.int32)
        return SimpleNamespace(
            vectors=self.vectors(role, texts), tokens=tokens, times=np.ones((len(texts), 2), np.float32)
        )

    async def search(self, texts, k=10, task="retrieval", *, filters=None, **more):
        await self._work("search", texts, k, task, *([] if filters is None else [filters]), *more.items())
        found = min(k, len(self.documents))
        ids = np.full((len(texts), k), -1, np.int64)
        ids[:, :found] = np.arange(found)
        scores = np.full((len(texts), k), -np.inf, np.float32)
        scores[:, :found] = np.linspace(0.9, 0.5, found)
        documents = [self.documents[:found] + [None] * (k - found) for _ in texts]
        return SimpleNamespace(
            ids=ids,
            scores=scores,
            documents=documents,
            document_ids=self.document_ids
            and [self.document_ids[:found] + [None] * (k - found)] * len(texts),
            tokens=np.array([len(text) for text in texts], np.int32),
            times=np.tile(np.array(self.times, np.float32), (len(texts), 1)),
        )

    async def close(self):
        self.closed = True


@pytest.fixture
def memory():
    return Memory()


@pytest.fixture
def gateway(memory):
    """Return a function that opens a test client of a gateway with some settings."""
    opened = []

    def open_(**options):
        rate = options.pop("limiter", None)
        app = create_app(Settings(**{"rate": 0.0, **options}), memory, rate=rate)
        client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
        client.__enter__()
        opened.append(client)
        return client

    yield open_
    for client in opened:
        client.__exit__(None, None, None)


@dataclass
class Served:
    """A gateway on a real socket."""

    address: str
    loop: asyncio.AbstractEventLoop


@pytest.fixture
def served(memory):
    """Return a function that serves a gateway on a free port of this machine."""
    ends = []

    def serve(*, documents=None, **options):
        app = create_app(Settings(**{"rate": 0.0, **options}), memory, documents=documents)
        sockets = listen("127.0.0.1", 0)
        opened = sockets.__enter__()
        server = uvicorn.Server(
            uvicorn.Config(
                app, log_config=None, access_log=False, server_header=False, ws="none", lifespan="on"
            )
        )
        started = threading.Event()
        loops = []

        async def main():
            loops.append(asyncio.get_running_loop())
            started.set()
            await server.serve(sockets=opened)

        thread = threading.Thread(target=lambda: asyncio.run(main()))
        thread.start()
        assert started.wait(10)

        def end():
            server.should_exit = True
            thread.join(10)
            sockets.__exit__(None, None, None)

        ends.append(end)
        return Served(url_of(opened), loops[0])

    yield serve
    for end in ends:
        end()


@pytest.fixture
def as_lines():
    """Return a function that makes the messages of some log records one text."""
    return lambda records: json.dumps([record.getMessage() for record in records], ensure_ascii=False)
