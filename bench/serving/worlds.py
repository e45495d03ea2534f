"""Shared by the server's measurements: models, indexes, variants of repositories, and running servers."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness.machine import ROOT
from bench.inputs import mini, networks, texts
from bench.serving import clients, load
from care_accel import DualEncoder, ExactIndex, Retriever
from care_accel.serving import Server, write_repository
from care_accel.serving.repository.config import read_config, text_of
from care_accel.serving.tritonserver.server import free_ports

MINI, INT8, FLOAT32 = "care-mini", "CARE's size, int8", "CARE's size, float32"


def as_shipped(config: Any) -> None:
    """Leave a configuration as it is."""


def not_batched(config: Any) -> None:
    """Remove dynamic batching: each request is executed alone."""
    config.ClearField("dynamic_batching")


def in_the_server(config: Any) -> None:
    """Have search run in the server's own process."""
    if config.name == "search":
        config.backend = "care"


def delayed(microseconds: int) -> Callable[[Any], None]:
    """Return a change that sets the queue delay of the models that encode queries."""

    def change(config: Any) -> None:
        if config.name in ("query_encoder", "search"):
            config.dynamic_batching.max_queue_delay_microseconds = microseconds

    return change


def documents_in_the_foreground(config: Any) -> None:
    """Let the document encoder compete with queries for the processor."""
    if config.name == "document_encoder":
        config.parameters["background"].string_value = "false"


@dataclass
class World:
    """A model with an index of titles, in process and as repositories.

    Parameters
    ----------
    name : str
    folder : Path
        Output folder.
    documents : list of str
    """

    name: str
    folder: Path
    documents: list[str]

    @cached_property
    def options(self) -> dict[str, Any]:
        """Options of `DualEncoder.from_pretrained`."""
        if self.name == MINI:
            return {"model": "care-mini"}
        size = "gte, 305M" if len(self.documents) > 1000 else "gte, small"
        return {
            "model": write_model(self.folder.parent / size.replace(", ", "-"), size),
            "dtype": "int8" if self.name == INT8 else "float32",
        }

    @cached_property
    def index(self) -> Path:
        """A saved retriever. Random networks get random vectors; the scan takes as long."""
        model = DualEncoder.from_pretrained(**self.options)
        found = ExactIndex(model.width, encoder_revision=model.revision("document"))
        if self.name == MINI:
            found.add(mini.document_vectors(tuple(self.documents)))
        else:
            vectors = np.random.default_rng(0).standard_normal((len(self.documents), model.width), np.float32)
            found.add(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        Retriever(model, found, self.documents).save(self.folder / "index")
        return self.folder / "index"

    @cached_property
    def retriever(self) -> Retriever:
        """The library in process."""
        return Retriever.load(self.index, DualEncoder.from_pretrained(**self.options))

    @cached_property
    def written(self) -> Path:
        """The repository as it is written."""
        options = dict(self.options)
        write_repository(self.folder / "written", options.pop("model"), index=self.index, **options)
        return self.folder / "written"

    @contextmanager
    def repository(self, change: Callable[[Any], None]) -> Iterator[Path]:
        """Yield a temporary copy of the repository with every configuration changed."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            place = Path(folder) / "repository"
            shutil.copytree(self.written, place)
            for file in place.glob("*/config.pbtxt"):
                config = read_config(file)
                change(config)
                file.write_text(text_of(config), encoding="utf-8")
            yield place


def write_model(folder: Path, size: str) -> Path:
    """Write a dual encoder with random weights: a query network of a size, and a small document network."""
    if (folder / "care.json").is_file():
        return folder
    tokenizer = mini.model().encoder("query").tokenizer
    hidden = networks.network(size).config.hidden_size
    small = {
        "hidden_size": hidden,
        "num_hidden_layers": 1,
        "num_attention_heads": hidden // 16,
        "intermediate_size": 2 * hidden,
        "vocab_size": len(tokenizer),
    }
    networks.NETWORKS["document"] = ("gte", small)
    parts = {"query_encoder": size, "document_encoder": "document"}
    for place, name in parts.items():
        networks.network(name).save_pretrained(folder / place)
        tokenizer.save_pretrained(folder / place)
    networks.network.cache_clear()
    found = DualEncoder.from_pretrained(
        query=folder / "query_encoder", document=folder / "document_encoder", preset="care", width=hidden
    )
    found.save_pretrained(folder / "saved")
    for file in (folder / "saved").iterdir():
        shutil.rmtree(folder / file.name, ignore_errors=True)
        file.rename(folder / file.name)
    return folder


@dataclass
class Running:
    """A running server.

    Attributes
    ----------
    address : str
    pid : int
    client : str
        Key of `load.CLIENTS`.
    texts : iterator of str
        Questions not yet sent to this server.
    http : str
        URL of an inference server.
    counters : str, optional
        Its gRPC address.
    """

    address: str
    pid: int
    client: str = "raw"
    texts: Iterator[str] = field(default_factory=lambda: itertools.cycle(texts.questions()))
    http: str = ""
    counters: str | None = None

    def over_http(self) -> Running:
        """Return the same server, asked over HTTP."""
        return replace(self, address=self.http, client="http")

    def requests(self, model: str, count: int) -> list[clients.Request]:
        """Return requests of one question each."""
        build: Callable[[str, list[str]], clients.Request]
        build = clients.json_request if self.client == "json" else clients.request
        if self.client == "http":
            build = partial(clients.http_request, address=self.address)
        return [build(model, [next(self.texts)]) for _ in range(count)]

    def measure(self, model: str, count: int, concurrency: int) -> load.Measured:
        """Send requests of one question each from ``concurrency`` clients."""
        return self.send(load.Load(iter(self.requests(model, count)), concurrency))[0]

    def send(self, *loads: load.Load, seconds: float = 120.0) -> list[load.Measured]:
        """Send loads concurrently."""
        return load.run(
            self.address,
            *loads,
            seconds=seconds,
            client=self.client,
            pid=self.pid,
            counters=self.counters,
        )


@contextmanager
def served(world: World, change: Callable[[Any], None]) -> Iterator[Running]:
    """Run the server on a world's repository with a change."""
    with world.repository(change) as repository, Server(repository) as server:
        assert server.process is not None
        running = Running(server.grpc, server.process.pid, http=f"http://{server.http}", counters=server.grpc)
        running.measure("search", 50, 4)
        yield running


@contextmanager
def by_hand(world: World) -> Iterator[Running]:
    """Run the hand-written server on the same documents."""
    folder = world.folder / "by-hand"
    folder.mkdir(exist_ok=True)
    np.save(folder / "vectors.npy", world.retriever.index.vectors)
    (folder / "documents.json").write_text(json.dumps(world.retriever.documents), encoding="utf-8")
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "bench.serving.peer_server", str(folder), str(port)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        end = time.monotonic() + 120
        while True:
            assert process.poll() is None, "the peer ended by itself"
            assert time.monotonic() < end, "the peer does not answer"
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=2):
                break
            time.sleep(0.1)
        running = Running(f"http://127.0.0.1:{port}", process.pid, "json")
        running.measure("search", 50, 4)
        yield running
    finally:
        process.terminate()
        process.wait(20)
