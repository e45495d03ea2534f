"""Filters over collections: the ten best of the documents that a filter leaves, of all of them to none.

A filter that is new has to find its documents first, one that was seen before has them at hand. Vectors are synthetic, in
clusters, and a stand-in for the document encoder looks them up (`prepared`); a filter takes documents in random order.
Queries rotate, and hits are compared with products of all vectors in float64. Peers: faiss's flat index with its selectors,
from places in a NumPy array; Lance's own search of the same table; milvus-lite, where it is installed, over fewer documents.
"""

from __future__ import annotations

import itertools
import weakref

import numpy as np
import pytest

pytest.importorskip("lance", reason="pylance is not installed (extra collection)")
from bench.collection.by_hand import K, faiss
from bench.collection.prepared import World

# Documents and width.
SHAPE = {"smoke": (2_000, 32), "default": (200_000, 384), "full": (200_000, 384)}
# For milvus-lite, which takes seconds to search this many.
SMALL = {"smoke": (500, 32), "default": (20_000, 384), "full": (20_000, 384)}
LEAVES = {"all": 1.0, "50 %": 0.5, "5 %": 0.05, "0.1 %": 0.001, "one": None, "none": 0.0}
CHECKED = 3
OURS = "care_accel"


def pytest_generate_tests(metafunc):
    size = metafunc.config.getoption("--bench-size")
    if metafunc.function is test_new_filter:
        small = [(SMALL[size], "5 %", engine) for engine in (*NEW_FILTER, MILVUS)]
        large = itertools.product([SHAPE[size]], LEAVES, NEW_FILTER)
        metafunc.parametrize(("shape", "leaves", "engine"), [*small, *large])
    else:
        cases = itertools.product([SHAPE[size]], LEAVES, KNOWN_FILTER)
        metafunc.parametrize(("shape", "leaves", "engine"), list(cases))


@pytest.fixture
def kept(cached, shape):
    """Return a function that makes something once for all tests over documents of one shape."""
    return lambda key, make: cached(("filters", shape), key, make)


@pytest.fixture
def world(kept, shape):
    return kept("world", lambda: World(*shape))


def bounds(count, leaves, turn):
    """Return places that a filter takes: as many in every turn, in other words each time."""
    share = LEAVES[leaves]
    if share is None:
        return turn % count, turn % count + 1
    return (-turn, round(share * count)) if share else (-turn - 1, -turn)


def expression(lower, upper):
    return f"place >= {lower} AND place < {upper}"


def numbers_of(hits):
    return [int(hit.id) for hit in hits[0]]


def new_in_collection(world):
    return lambda query, *places: numbers_of(
        world.collection.search_vectors(query, K, filter=expression(*places))
    )


def new_in_lance(world):
    table, vectors = world.table()

    def search(query, *places):
        nearest = {"column": vectors, "q": query[0], "k": K, "metric": "dot", "use_index": False}
        found = table.to_table(
            columns=["id", "_distance"], nearest=nearest, filter=expression(*places), prefilter=True
        )
        return [int(number) for number in found["id"].to_pylist()]

    return search


def new_in_faiss(world):
    search = selecting(world.flat)
    selector = faiss().IDSelectorBitmap
    return lambda query, lower, upper: search(
        query, selector(bitmap((world.places >= lower) & (world.places < upper)))
    )


def new_in_milvus(world):
    library = pytest.importorskip("pymilvus", reason="the peer milvus-lite is not installed")
    servers = pytest.importorskip(
        "milvus_lite.server_manager", reason="the peer milvus-lite is not installed"
    ).server_manager_instance
    file = str(world.folder / "milvus.db")
    kinds, client = library.DataType, library.MilvusClient(uri=file)
    weakref.finalize(world, servers.release_server, file)  # it writes its files: before they are removed
    schema = client.create_schema(auto_id=False)
    schema.add_field("id", kinds.INT64, is_primary=True)
    schema.add_field("place", kinds.INT64)
    schema.add_field("vector", kinds.FLOAT_VECTOR, dim=world.width)
    how = client.prepare_index_params()
    how.add_index("vector", index_type="FLAT", metric_type="IP")
    client.create_collection("documents", schema=schema, index_params=how)
    for some in np.array_split(np.arange(world.count), -(-world.count // 2_000)):
        rows = [{"id": int(i), "place": int(world.places[i]), "vector": world.vectors[i]} for i in some]
        client.insert("documents", rows)
    client.load_collection("documents")

    def search(query, *places):
        words = expression(*places).replace("AND", "and")
        return [hit["id"] for hit in client.search("documents", data=list(query), limit=K, filter=words)[0]]

    return search


def bitmap(mask):
    return np.packbits(mask, bitorder="little")


def selecting(index):
    """Return a search of faiss that takes a selector."""
    parameters = faiss().SearchParameters
    return lambda query, chosen: [
        int(i) for i in index.search(query, K, params=parameters(sel=chosen))[1][0] if i >= 0
    ]


MILVUS = "milvus-lite"
NEW_FILTER = {
    OURS: new_in_collection,
    "Lance, flat": new_in_lance,
    "faiss, NumPy and IDSelectorBitmap": new_in_faiss,
}


def check(world, kept, search, leaves, *, exact, turns):
    """Compare hits of the first queries with products of all vectors in float64."""

    def products():
        asked = np.concatenate(world.queries[:CHECKED]).astype(np.float64)
        pieces = np.array_split(world.vectors, -(-world.count // 20_000))
        return np.concatenate([asked @ piece.astype(np.float64).T for piece in pieces], axis=1)

    for query, scores in zip(world.queries, kept("products", products), strict=False):
        places = bounds(world.count, leaves, next(turns))
        there = np.flatnonzero((world.places >= places[0]) & (world.places < places[1]))
        best = there[np.argsort(-scores[there], kind="stable")[:K]].tolist()
        found = search(query, *places)
        if exact:
            assert found == best
        else:  # float32 may swap the last
            assert len(found) == len(best)
            assert len(set(found) & set(best)) >= 0.8 * len(best)


_new = itertools.count(1)  # no filter of a run comes twice


def test_new_filter(measure, kept, world, shape, leaves, engine):
    make = {**NEW_FILTER, MILVUS: new_in_milvus}[engine]
    search = kept(f"new filter, {engine}", lambda: make(world))
    measure(
        search,
        (
            (query, *bounds(world.count, leaves, turn))
            for query, turn in zip(itertools.cycle(world.queries), _new, strict=False)
        ),
        group=f"top {K} of {shape[0]:,} x {shape[1]} with a new filter that leaves {leaves}",
        name=engine,
        ours=engine == OURS,
        parameters={"vectors": shape[0], "width": shape[1], "queries": 1, "k": K, "leaves": leaves},
        exact=True,
    )
    check(world, kept, search, leaves, exact=engine == OURS, turns=_new)


def known_in_collection(world, places):
    words = None if places is None else expression(*places)
    return lambda query: numbers_of(world.collection.search_vectors(query, K, filter=words))


def known_in_faiss(kind):
    def make(world, places):
        mask = (world.places >= places[0]) & (world.places < places[1])
        chosen = bitmap(mask) if kind == "IDSelectorBitmap" else np.flatnonzero(mask)
        search, selector = selecting(world.flat), getattr(faiss(), kind)(chosen)
        return lambda query: search(query, selector)

    return make


def without_filter_in_faiss(world, places):
    return lambda query: world.flat.search(query, K)[1][0].tolist()


KNOWN_FILTER = {
    OURS: known_in_collection,
    "care_accel, no filter": lambda world, places: known_in_collection(world, None),
    "faiss, IDSelectorBitmap": known_in_faiss("IDSelectorBitmap"),
    "faiss, IDSelectorBatch": known_in_faiss("IDSelectorBatch"),
    "faiss, no filter": without_filter_in_faiss,
}


def test_known_filter(measure, kept, world, shape, leaves, engine):
    places = bounds(world.count, leaves, 0)
    search = kept((leaves, engine), lambda: KNOWN_FILTER[engine](world, places))
    measure(
        search,
        [(query,) for query in world.queries],
        group=f"top {K} of {shape[0]:,} x {shape[1]} with a filter seen before that leaves {leaves}",
        name=engine,
        ours=engine == OURS,
        parameters={"vectors": shape[0], "width": shape[1], "queries": 1, "k": K, "leaves": leaves},
        exact=True,
    )
    part = "all" if "no filter" in engine else leaves
    same = itertools.repeat(0)
    check(world, kept, lambda query, *_: search(query), part, exact=OURS in engine, turns=same)
