"""Collections: indexing real documents, opening, following changes, and changing a few documents.

Only indexing encodes. All else runs over synthetic vectors in clusters, which a stand-in for the document encoder looks
up (`prepared`). Its texts are the beginnings of real answers. Table, commits, index and searches are those of any
collection. Files are in the cache of the system. Peers are what people write by hand: sentence-transformers, faiss's flat
index and SQLite (`by_hand`).
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest

pytest.importorskip("lance", reason="pylance is not installed (extra collection)")
from bench.collection.by_hand import ByHand, K, faiss
from bench.collection.opening import OPENERS
from bench.collection.prepared import World, real_documents
from bench.harness.machine import ROOT
from bench.inputs import mini
from care_accel import Collection

INDEXED = {"smoke": 4, "default": 200, "full": 1_500}
# Documents and width.
SHAPE = {"smoke": (2_000, 32), "default": (200_000, 384), "full": (200_000, 384)}
WIDE = (200_000, 768)
CHANGED = 10
OURS = "care_accel"


def pytest_generate_tests(metafunc):
    size = metafunc.config.getoption("--bench-size")
    name = metafunc.function.__name__
    if name == "test_indexing":
        metafunc.parametrize("engine", INDEXERS)
    elif name == "test_opening":
        shapes = [SHAPE[size], *([WIDE] if size == "full" else [])]
        metafunc.parametrize(("shape", "engine"), list(itertools.product(shapes, [*OPENERS, REBUILT])))
    else:
        engines = {"test_following": FOLLOWING, "test_upserting": UPSERTING}[name]
        metafunc.parametrize(("shape", "engine"), [(SHAPE[size], engine) for engine in engines])


@pytest.fixture
def kept(cached, shape):
    """Return a function that makes something once for all tests over documents of one shape."""
    return lambda key, make: cached(("collection", shape), key, make)


@pytest.fixture
def world(kept, shape):
    return kept("world", lambda: World(*shape))


# Indexing


def index_in_collection(ids, documents, folder):
    collection = Collection.create(folder / "collection", mini.model())
    done = collection.upsert({"id": name, "text": text} for name, text in zip(ids, documents, strict=True))
    return [hit.document["text"] for hit in collection.search(documents[0], K)], done


def index_by_hand(encoder, ids, documents, folder):
    prompt = mini.model().spec("document").format("", "retrieval")
    vectors = encoder.model.encode(documents, prompt=prompt, show_progress_bar=False)
    made = ByHand.create(folder / "by-hand", faiss().IndexFlatIP(vectors.shape[1]))
    made.index.add(vectors)
    made.store(zip(range(len(ids)), ids, documents, strict=True))
    made.write()
    return [text for _, text in made.search(mini.model().encode_query([documents[0]]))], None


def make_by_hand():
    encoder = mini.SentenceTransformers("document")
    return lambda *arguments: index_by_hand(encoder, *arguments)


INDEXERS = {
    OURS: lambda: index_in_collection,
    "sentence-transformers, faiss and SQLite": make_by_hand,
}


def test_indexing(measure, cached, bench_size, engine, tmp_path):
    ids, documents = real_documents(INDEXED[bench_size])

    def make():
        index = INDEXERS[engine]()
        index(ids[:2], documents[:2], tmp_path / "warm-up")
        return index

    index = cached("indexing", engine, make)
    found = []

    def run():
        begun = perf_counter()
        found[:] = index(ids, documents, tmp_path)
        return [perf_counter() - begun]

    measure.once(
        run,
        group=f"{len(documents):,} real documents to the first hits",
        name=engine,
        ours=engine == OURS,
        parameters={"documents": len(documents)},
    )
    hits, done = found
    if not measure.disabled:
        measure.note(rate=len(documents) / measure.benchmark.stats.stats.median)
    if done:
        assert done.new == len(documents)
        outside = done.seconds - done.encode_seconds
        measure.note(note=f"{outside / done.seconds:.1%} of the upsert outside encoding")
    assert documents[0] in hits


# Opening


REBUILT = "care_accel, index deleted"


def write_for_opening(world, index):
    np.save(world.folder / "query.npy", world.queries[0])
    made = ByHand.create(world.folder / "by-hand", index)
    made.store((n, row["id"], row["text"]) for n, row in enumerate(map(world.row, range(world.count))))
    made.write()


def resident(engine, folder):
    """Return what an engine has in memory once it is open, by a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.collection.opening", engine, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return json.loads(done.stdout)


def test_opening(measure, kept, world, shape, engine):
    if engine not in (OURS, REBUILT):
        faiss()
    kept("written", lambda: write_for_opening(world, world.flat))
    query, again, found = world.queries[0], world.folder / "index-again", []
    about = {
        "group": f"opening {shape[0]:,} x {shape[1]} to the first hits",
        "name": engine,
        "ours": engine == OURS,
        "parameters": {"vectors": shape[0], "width": shape[1], "queries": 1, "k": K},
    }
    if engine == REBUILT:  # takes long: once in a block

        def rebuild():
            shutil.rmtree(again, ignore_errors=True)
            begun = perf_counter()
            found[:] = Collection.open(world.uri, index_dir=again).search_vectors(query, K)[0]
            return [perf_counter() - begun]

        measure.once(rebuild, **about)
    else:
        found[:] = measure(lambda: OPENERS[engine](world.folder, query), **about)[1]
        there = kept(f"resident, {engine}", lambda: resident(engine, world.folder))
        words = " and ".join(f"{size / 2**20:,.0f} MiB {kind}" for kind, size in there.items())
        measure.note(resident_bytes=there, note=f"in memory {words}")
    assert found


# Following the changes of another writer


def refreshed(world):
    world.collection.refresh()
    return world.collection


def opened_again(world):
    opened = world.opened()
    opened.search_vectors(world.queries[0], K)
    return opened


def read_again(world):
    table, vectors = world.table()
    read = table.to_table(columns=["id", vectors])
    index = faiss().IndexFlatIP(world.width)
    index.add(read[vectors].combine_chunks().flatten().to_numpy().reshape(-1, world.width))
    return None


FOLLOWING = {
    OURS: refreshed,
    "care_accel, opened again": opened_again,
    "faiss, all read from Lance": read_again,
}


def test_following(measure, kept, world, shape, engine):
    writer = kept("writer", world.opened)
    if "faiss" in engine:
        faiss()
    last = []

    def changed():
        for (rows,) in world.changes(CHANGED):
            assert writer.upsert(rows).changed == CHANGED
            last[:] = rows
            yield ()

    follower = measure(
        lambda: FOLLOWING[engine](world),
        changed(),
        group=f"following {CHANGED} changes of {shape[0]:,} x {shape[1]}",
        name=engine,
        ours=engine == OURS,
        parameters={"vectors": shape[0], "width": shape[1], "changed": CHANGED},
    )
    if follower is not None:
        read = follower.searcher().snapshot.read
        measure.note(note=f"{read:,} rows read, version {follower.version}")
        assert [row["text"] for row in follower.get([row["id"] for row in last])] == [
            row["text"] for row in last
        ]
        found = follower.search_vectors(world.model.encode_document([last[0]["text"]]), K)
        assert last[0]["id"] in [hit.id for hit in found[0]]


# Changing a few documents


def upsert_by_hand(writes):
    def make(world):
        index = faiss().IndexIDMap2(faiss().IndexFlatIP(world.width))
        index.add_with_ids(world.vectors, np.arange(world.count))
        folder = Path(tempfile.mkdtemp(dir=world.folder))
        made = ByHand.create(folder, index)
        made.store((n, row["id"], row["text"]) for n, row in enumerate(map(world.row, range(world.count))))

        def upsert(rows):
            vectors = world.model.encode_document([row["text"] for row in rows])
            made.replace([(int(row["id"]), row["id"], row["text"]) for row in rows], vectors)
            if writes:
                made.write()

        return upsert

    return make


UPSERTING = {
    OURS: lambda world: world.collection.upsert,
    "care_accel, never searched": lambda world: world.opened().upsert,
    "faiss and SQLite, vectors not saved": upsert_by_hand(writes=False),
    "faiss and SQLite": upsert_by_hand(writes=True),
}


def test_upserting(measure, kept, world, shape, engine):
    upsert = kept(f"upserting, {engine}", lambda: UPSERTING[engine](world))
    world.collection.refresh()
    parts = defaultdict(list)

    def run(rows):
        done = upsert(rows)
        if done is not None:
            assert done.changed == CHANGED
            parts["commit"].append(1e6 * done.commit_seconds)
            parts["before"].append(1e6 * (done.seconds - done.commit_seconds))

    measure(
        run,
        world.changes(CHANGED),
        group=f"upserting {CHANGED} changed documents of {shape[0]:,} x {shape[1]}, without encoding",
        name=engine,
        ours=engine == OURS,
        parameters={"vectors": shape[0], "width": shape[1], "changed": CHANGED},
    )
    if parts:
        measure.note(
            parts_us={name: np.percentile(some, [50, 99]).round(1).tolist() for name, some in parts.items()}
        )
