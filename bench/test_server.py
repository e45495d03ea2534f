"""The inference server under load: latency and throughput by concurrency, batched and not, and where the time goes.

Clients and server share the machine. A benchmark is a fixed number of requests, so that medians of a group compare
throughput; p50 and p99 of a request stand beside it. Peers: the library in process, one query after the other, and a
server written by hand. No text is sent twice to a server.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tritonclient.grpc", reason="the server is not installed (extra server)")
sys.path.insert(0, str(Path(__file__).parent))
import load
import serving
import texts

from care_accel.errors import CareError
from care_accel.serving.program import find_program


def hindrance():
    """Return why no server can run here, None if one can."""
    try:
        find_program()
    except CareError as missing:
        return f"needs a server: {missing}"
    return None


pytestmark = pytest.mark.skipif(hindrance() is not None, reason=str(hindrance()))

TITLES = {"smoke": 40, "default": 10**9, "full": 10**9}
CONCURRENCY = {"smoke": [1, 16], "default": [1, 2, 4, 8, 16, 32, 64], "full": [1, 2, 4, 8, 16, 32, 64]}
# Requests of a measurement, by how long a query takes.
REQUESTS = {
    "smoke": {serving.MINI: 40},
    "default": {serving.MINI: 1500, serving.INT8: 240, serving.FLOAT32: 160},
    "full": {serving.MINI: 5000, serving.INT8: 640, serving.FLOAT32: 320},
}
MODELS = ["search", "query_encoder"]
SHIPPED, UNBATCHED, PEER = "served", "served, not batched", "FastAPI, sentence-transformers, faiss"
IN_PROCESS, WITH_GAPS = "in process, one by one", "in process, a query each 5 ms"
DELAYS = [0, 100, 500, 1000, 2000]
ALONE, FOREGROUND = "no documents", "served, documents at the same priority"

SHORT = {
    serving.MINI: "mini",
    serving.INT8: "int8",
    serving.FLOAT32: "float32",
    SHIPPED: "shipped",
    UNBATCHED: "unbatched",
    PEER: "peer",
    FOREGROUND: "foreground",
}


def identity(case):
    """Return the name of a test's server."""
    return "-".join(SHORT.get(part, f"{part}us") for part in case)


def pytest_generate_tests(metafunc):
    size = metafunc.config.getoption("--bench-size")
    worlds = list(REQUESTS[size])
    if metafunc.function is test_load:
        cases = [
            (world, how)
            for world in worlds
            for how in (SHIPPED, UNBATCHED, PEER)
            if size != "smoke" or how == SHIPPED
            if how != PEER or world == serving.MINI  # the network alone decides for others
        ]
        metafunc.parametrize("running", cases, indirect=True, ids=identity)
    elif metafunc.function is test_delay:
        cases = [(world, delay) for world in worlds[:2] for delay in DELAYS if size != "smoke"]
        metafunc.parametrize("running", cases, indirect=True, ids=identity)
    elif metafunc.function is test_beside_documents:
        cases = [
            (world, how)
            for world in worlds[:2]
            for how in (SHIPPED, FOREGROUND)
            if size != "smoke" or how == SHIPPED
        ]
        metafunc.parametrize("running", cases, indirect=True, ids=identity)
    if "concurrency" in metafunc.fixturenames:
        metafunc.parametrize(
            "concurrency", CONCURRENCY[size] if metafunc.function is test_load else [1, 8, 64]
        )
    if "world" in metafunc.fixturenames:
        metafunc.parametrize("world", worlds, indirect=True, ids=list(map(SHORT.get, worlds)))


@pytest.fixture(scope="session")
def worlds(bench_size, tmp_path_factory):
    """Keep each model and index once it is made."""
    made = {}

    def get(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(SHORT[name])
            made[name] = serving.World(name, folder, texts.titles(TITLES[bench_size]))
        return made[name]

    return get


@pytest.fixture(scope="session")
def world(request, worlds):
    return worlds(request.param)


@pytest.fixture(scope="session")
def one_at_a_time(worlds):
    """Return a function that gives the server that is asked for, and ends the one that ran until then."""
    with ExitStack() as stack:
        kept = {}

        def switch(name, how):
            if (name, how) not in kept:
                kept.clear()
                stack.close()
                kept[name, how] = stack.enter_context(server_of(worlds(name), how))
            return kept[name, how]

        yield switch


def server_of(world, how):
    """Return a context of a server, as its kind says."""
    if how == PEER:
        for package in ("faiss", "fastapi", "uvicorn", "sentence_transformers"):
            pytest.importorskip(package, reason=f"the peer {package} is not installed (extra bench)")
        return serving.by_hand(world)
    changes = {UNBATCHED: serving.not_batched, FOREGROUND: serving.documents_in_the_foreground}
    change = serving.delayed(how) if isinstance(how, int) else changes.get(how, serving.as_shipped)
    return serving.served(world.repository(change))


@pytest.fixture
def running(request, one_at_a_time, worlds):
    name, how = request.param
    server = one_at_a_time(name, how)
    server.name, server.how, server.world = name, how, worlds(name)
    return server


@pytest.mark.parametrize("model", MODELS)
def test_load(benchmark, bench_size, running, model, concurrency):
    if running.how == PEER and model != "search":
        pytest.skip("the peer searches")
    count = REQUESTS[bench_size][running.name]
    benchmark.group = f"{running.name}: {count} requests of {model}, concurrency {concurrency}"
    measured(benchmark, running, model, count, concurrency, ours=running.how == SHIPPED)
    if running.how == PEER:
        return
    outputs = load.outputs(running.last.last)
    assert outputs["EMBEDDING" if model == "query_encoder" else "IDS"].shape[0] == 1
    if model == "search" and concurrency == 1:
        compare(running)


def compare(running):
    """Hold an answer of the server against the library's."""
    query = next(running.texts)
    (found,) = running.send(load.Load(iter([load.request("search", [query])])))
    hits = running.world.retriever.search(query, 10)
    assert load.outputs(found.last)["IDS"][0].tolist() == [hit.id for hit in hits]


@pytest.mark.parametrize("model", MODELS)
def test_in_process(benchmark, bench_size, world, model):
    """What the server is held against: the same queries by the library, back to back, and as clients come."""
    count = REQUESTS[bench_size][world.name]
    ask = world.retriever.search if model == "search" else world.retriever.model.encode_query
    queries = cycle(texts.questions())
    found = {}
    for way, gap in ((WITH_GAPS, 0.005), (IN_PROCESS, 0.0)):
        for query in islice(queries, 20):
            ask(query)

        def run(way=way, gap=gap):
            times = found[way] = []
            for query in islice(queries, count):
                time.sleep(gap) if gap else None
                begun = time.perf_counter()
                ask(query)
                times.append(time.perf_counter() - begun)

        if gap:
            run()
    benchmark.group = f"{world.name}: {count} requests of {model}, concurrency 16"
    benchmark.pedantic(run, rounds=1)
    notes = [f"{way}: p50 {p50:.2f} / p99 {p99:.2f} ms" for way, (p50, p99) in percentiles(found).items()]
    rate = count / sum(found[IN_PROCESS])
    benchmark.extra_info |= {"name": IN_PROCESS, "note": f"{rate:,.0f} a second; {'; '.join(notes)}"}


def percentiles(found):
    return {way: 1e3 * np.percentile(times, [50, 99]) for way, times in found.items()}


@pytest.mark.parametrize("model", MODELS)
def test_delay(benchmark, bench_size, running, model, concurrency):
    """How long a query should wait for others to share a batch with."""
    count = REQUESTS[bench_size][running.name]
    benchmark.group = f"{running.name}: queue delay, {count} requests of {model}, concurrency {concurrency}"
    measured(benchmark, running, model, count, concurrency, name=f"{running.how} us", ours=running.how == 0)


RATES = {serving.MINI: 100.0, serving.INT8: 15.0}


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside documents"])
@pytest.mark.parametrize("way", ["concurrency 1", "open loop"])
def test_beside_documents(benchmark, bench_size, running, way, beside):
    """What queries notice of documents that are encoded in bulk: four requests of 64 at any time."""
    count = min(500, REQUESTS[bench_size][running.name])
    rows = 8 if bench_size == "smoke" else 64
    queries = load.Load(
        iter(running.requests("search", count)), rate=RATES[running.name] if way == "open loop" else None
    )
    bulk = [load.request("document_encoder", some) for some in batches(texts.answers(), rows, 40)]
    others = [load.Load(cycle(bulk), 4)] if beside else []
    found = []
    benchmark.group = f"{running.name}: {count} searches, {way}"
    benchmark.pedantic(lambda: found.append(running.send(queries, *others)), rounds=1)
    name = f"{ALONE} (there: {running.how})" if not beside else f"documents beside, {running.how}"
    first = found[0][0]
    note(benchmark, first, name, ours=False)
    for one in found[0]:
        assert not one.errors
    if beside:
        documents = rows * len(found[0][1].latencies) / found[0][1].seconds
        benchmark.extra_info["note"] += f"; {documents:,.0f} documents a second beside"


def batches(some, rows, most):
    return [some[i : i + rows] for i in range(0, min(len(some) - rows + 1, rows * most), rows)]


def measured(benchmark, running, model, count, concurrency, *, name=None, ours):
    """Send the requests, and note what was seen."""
    requests = running.requests(model, count)
    found = []
    loads = load.Load(iter(requests), concurrency)
    benchmark.pedantic(lambda: found.extend(running.send(loads)), rounds=1)
    running.last = found[0]
    note(benchmark, found[0], name or running.how, ours=ours)
    refused = sum(found[0].errors.values())
    assert len(found[0].latencies) + refused == count
    if running.name == serving.MINI:
        assert not refused
    elif refused:  # so many clients of a slow network wait for longer than the server lets them
        assert set(found[0].errors) == {"UNAVAILABLE"}
        benchmark.extra_info["note"] += f"; {refused} refused"


def note(benchmark, found, name, *, ours):
    summary = found.summary()
    share = found.client / found.seconds / len(os.sched_getaffinity(0))
    words = f"{found.rate:,.0f} a second, p50 {found.at(50):.2f} / p99 {found.at(99):.2f} ms, client {share:.0%} of the machine"
    for model, parts in summary["models"].items():
        if model != "search":
            words += f"; {model} {'/'.join(str(round(parts[p])) for p in load.PARTS)} us, batch {parts.get('batch', 0)}"
    benchmark.extra_info |= {"name": name, "ours": ours, "note": words, "load": summary}
