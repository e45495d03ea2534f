"""One query at a time by shards on this machine, beside the same scan in this process: what the way to the shards adds.

Two layouts: shards on Ray Serve, and an inference server for each. Searches by one process come in between, query by query, so that
both see the same machine. All shards and the caller share its cores: the figures show the way, not what is gained by more machines.
Vectors of documents are synthetic, in clusters (`prepared`); queries are real, and care-mini encodes them: in this process for Ray, by
one of the servers for these. It needs the extras cluster and server.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest

pytest.importorskip("ray", reason="needs the extra cluster: make cluster")
pytest.importorskip("grpc_reflection", reason="needs the extra cluster: make cluster")
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "cluster" / "support"))
from nodes import cluster_of_this_machine

from bench.collection.prepared import PreparedEncoder, PreparedModel
from bench.inputs import mini
from bench.scan.test_scan import clustered
from care_accel import Collection
from care_accel.cluster import ShardedCollection
from care_accel.cluster.servers.client import ShardedClient
from care_accel.cluster.servers.repository import write_shard_repository
from care_accel.cluster.shards.calls import Limits
from care_accel.retriever import Hit
from care_accel.serving.tritonserver.server import Server

DOCUMENTS = {"smoke": 500, "default": 20_000, "full": 200_000}
ROUNDS = {"smoke": 3, "default": 120, "full": 1_000}
ALONE, RAY, SERVERS = "one process", "Ray Serve", "inference servers"
# A server takes some ten seconds of a core until it is there.
SHARDS = {
    "smoke": {RAY: (2,), SERVERS: (2,)},
    "default": {RAY: (1, 2, 4), SERVERS: (1, 2)},
    "full": {RAY: (1, 2, 4), SERVERS: (1, 2, 4)},
}
WAYS = ("of a vector", "of a text")
K = 10
# Nothing changes: nobody looks for new versions while it is measured.
LIMITS = Limits(shard=60.0, refresh=3600.0, settle=30.0, start=300.0)


def pytest_generate_tests(metafunc):
    if "layout" in metafunc.fixturenames:
        some = SHARDS[metafunc.config.getoption("--bench-size")]
        # Both ways of an engine in turn, as it takes long to start.
        cases = [((kind, number), way) for kind in (RAY, SERVERS) for number in some[kind] for way in WAYS]
        names = [f"{number} {kind}, {way}" for (kind, number), way in cases]
        metafunc.parametrize(("layout", "way"), cases, ids=names)


class HalfPrepared(PreparedModel):
    """care-mini, whose documents have prepared vectors."""

    def __init__(self, vectors) -> None:
        super().__init__(vectors)
        self.real = mini.model()
        self.name = self.real.name
        self._documents = PreparedEncoder(vectors)

    def encoder(self, role):
        return self._documents if role == "document" else self.real.encoder("query")

    def spec(self, role):
        return self.real.spec(role)

    def revision(self, role):
        return self.real.revision(role)


class World:
    """A collection in a folder that is removed with this object, and queries."""

    def __init__(self, documents: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bench-shards-")
        self.folder = Path(self._folder.name)
        self.model = HalfPrepared(clustered(np.random.default_rng(0), documents, mini.model().width))
        self.collection = Collection.create(self.folder / "collection", self.model, threads=1)
        self.collection.upsert(
            {"id": str(number), "text": f"{number} 患者应遵医嘱服药，定期复查，注意休息。"}
            for number in range(documents)
        )
        self.collection.compact(keep_days=0)
        self.texts = mini.queries()[:500]
        self.vectors = mini.model().encode_query(self.texts)
        self.collection.search_vectors(self.vectors[:1])


@pytest.fixture(scope="module")
def nodes():
    with cluster_of_this_machine() as address:
        yield address


@pytest.fixture
def world(bench_size, cached):
    return cached("shards", "world", lambda: World(DOCUMENTS[bench_size]))


@contextmanager
def on_ray(world, number, address):
    """Yield searches of a vector and of a text through shards on Ray Serve."""
    searched = ShardedCollection.serve(
        world.collection.uri, cluster=address, shards=number, cpus=0.1, model=world.model, limits=LIMITS
    )
    try:
        yield {
            WAYS[0]: lambda row: searched.search_vectors(world.vectors[row : row + 1], K).hits[0],
            WAYS[1]: lambda row: searched.search(world.texts[row], K),
        }
    finally:
        searched.stop()


@contextmanager
def by_servers(world, number):
    """Yield searches of a vector and of a text through inference servers."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-shards-")))
        servers = []
        for place in range(number):
            write_shard_repository(folder / str(place), world.collection.uri, (place, number), "care-mini")
            shutil.rmtree(folder / str(place) / "document_encoder")  # which is not asked
            servers.append(Server(folder / str(place)))
            stack.push(servers[-1])
        with ThreadPoolExecutor(number) as pool:
            list(pool.map(lambda server: server.start(300), servers))
        loop = stack.enter_context(asyncio.Runner())
        client = ShardedClient([server.grpc for server in servers], limits=LIMITS)
        stack.callback(lambda: loop.run(client.close()))

        def text(row):
            found = loop.run(client.search([world.texts[row]], K))
            return [
                Hit(*one, None) for one in zip(found.document_ids[0], found.scores[0].tolist(), strict=True)
            ]

        yield {
            WAYS[0]: lambda row: loop.run(client.search_vectors(world.vectors[row : row + 1], K)).hits[0],
            WAYS[1]: text,
        }


def pairs(hits):
    return [(hit.id, hit.score) for hit in hits]


def test_search(measure, world, bench_size, layout, way, request, kept_open):
    kind, number = layout
    search = kept_open(layout, lambda: opened(world, kind, number, request))[way]
    collection = world.collection
    alone = {
        WAYS[0]: lambda row: collection.search_vectors(world.vectors[row : row + 1], K)[0],
        WAYS[1]: lambda row: collection.search(world.texts[row], K),
    }[way]
    times = {"alone": [], "shards": []}

    def run():
        for turn in range(ROUNDS[bench_size] + 10):
            row = turn % len(world.texts)
            begun = perf_counter()
            expected = alone(row)
            between = perf_counter()
            found = search(row)
            ended = perf_counter()
            assert pairs(found) == pairs(expected)
            if turn >= 10:
                times["alone"].append(between - begun)
                times["shards"].append(ended - between)
        return times["shards"]

    parameters = {"documents": len(collection), "width": world.vectors.shape[1], "shards": number, "k": K}
    measure.once(
        run,
        group=f"a search {way}, {len(collection):,} documents",
        name=f"{number} shard{'s' * (number > 1)}, {kind}",
        ours=layout == (SERVERS, SHARDS[bench_size][SERVERS][0]),
        parameters=parameters,
        compared=lambda: float(np.median(times["shards"])),
    )
    if not measure.disabled:
        own, others = (1e3 * np.percentile(times[name], (50, 99)) for name in ("alone", "shards"))
        measure.note(
            note=f"{ALONE} in between: p50 {own[0]:.2f}, p99 {own[1]:.2f} ms; added: p50 {others[0] - own[0]:.2f}, "
            f"p99 {others[1] - own[1]:.2f} ms"
        )


def opened(world, kind, number, request):
    if kind == SERVERS:
        return by_servers(world, number)
    return on_ray(world, number, request.getfixturevalue("nodes"))


@pytest.fixture(scope="module")
def kept_open():
    """Return a function that opens one layout at a time: those of all together would need the memory of several machines."""
    with ExitStack() as stack:
        now = {}

        def open_one(layout, make):
            if layout not in now:
                stack.close()
                now.clear()
                os.environ.setdefault("OMP_NUM_THREADS", "1")
                now[layout] = stack.enter_context(make())
            return now[layout]

        yield open_one
