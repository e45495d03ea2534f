"""The inference server under load: latency and throughput by concurrency, batched and not, and where the time goes.

Clients and server share the machine. A block is a fixed number of requests; ratios are of throughput, percentiles of
requests. Peers: the same repository with search in the server's process, and this asked over HTTP, the same without batching, a hand-written server, and for information the library in
process, one query after the other. Servers of one model run side by side, and only one gets requests at a time. No text
is sent to a server twice. Parts are means by the server's own statistics; "elsewhere" is the rest of a request's time:
client, network stack, transfer between processes.
"""

from __future__ import annotations

import itertools
import os
import time
from contextlib import ExitStack
from functools import partial

import numpy as np
import pytest

pytest.importorskip(
    "tritonclient.grpc", reason="needs a server: tritonclient is not installed (extra server)"
)
from bench.inputs import texts
from bench.serving import clients, load, worlds
from care_accel.errors import CareError
from care_accel.serving.tritonserver.program import find_program


def skip_reason():
    """Return why no server can run here; None if one can."""
    try:
        find_program()
    except CareError as missing:
        return f"needs a server: {missing}"
    return None


pytestmark = pytest.mark.skipif(skip_reason() is not None, reason=str(skip_reason()))

TITLES = {"smoke": 40, "default": 10**9, "full": 10**9}
CONCURRENCY = {
    "smoke": {worlds.MINI: [1, 16]},
    "default": {worlds.MINI: [1, 8, 32], worlds.INT8: [1, 8]},
    "full": {world: [1, 2, 4, 8, 16, 32, 64] for world in (worlds.MINI, worlds.INT8, worlds.FLOAT32)},
}
# Requests per block for one client, fewer for slow networks; several clients send up to four times as many.
REQUESTS = {
    "smoke": {worlds.MINI: 20},
    "default": {worlds.MINI: 300, worlds.INT8: 40},
    "full": {worlds.MINI: 600, worlds.INT8: 100, worlds.FLOAT32: 40},
}
MODELS = ["search", "query_encoder"]
SHIPPED, UNBATCHED, PEER = "served", "served, not batched", "FastAPI, sentence-transformers, faiss"
IN_SERVER = "served, in the server's process"
OVER_HTTP = "served, in the server's process, over HTTP"
IN_PROCESS = "in process, one by one"
GAPS = {"one query after the other": 0.0, "a query each 5 ms, as clients come": 0.005}
DELAYS = {f"queue delay {delay} us": delay for delay in (0, 100, 500, 1000, 2000)}
ALONE, BESIDE, FOREGROUND = "no documents", "documents beside", "documents beside, at the same priority"
RATES = {worlds.MINI: 100.0, worlds.INT8: 15.0}
WAYS = ["one client", "open loop"]


def pytest_generate_tests(metafunc):
    size = metafunc.config.getoption("--bench-size")
    known = list(REQUESTS[size])
    if metafunc.function is test_load:
        cases = [
            (world, model, concurrency, engine)
            for world in known
            for model in MODELS
            for concurrency in CONCURRENCY[size][world]
            for engine in (SHIPPED, IN_SERVER, OVER_HTTP, UNBATCHED, PEER, IN_PROCESS)
            if size != "smoke" or engine in (SHIPPED, IN_PROCESS)
            if engine not in (IN_SERVER, OVER_HTTP) or model == "search"
            # With a large network the network alone decides, and the peer serves search only.
            if engine != PEER or (world == worlds.MINI and model == "search")
        ]
        metafunc.parametrize(("world", "model", "concurrency", "engine"), cases)
    elif metafunc.function is test_gaps:
        some = itertools.product(known, MODELS, GAPS if size != "default" else [])
        metafunc.parametrize(("world", "model", "engine"), list(some))
    elif metafunc.function is test_delay:
        some = itertools.product(known[:2], MODELS, [1, 8, 64], DELAYS if size == "full" else [])
        metafunc.parametrize(("world", "model", "concurrency", "engine"), list(some))
    elif metafunc.function is test_beside_documents:
        engines = {"smoke": [ALONE, BESIDE], "default": [], "full": [ALONE, BESIDE, FOREGROUND]}[size]
        metafunc.parametrize(("world", "way", "engine"), list(itertools.product(known[:2], WAYS, engines)))


@pytest.fixture(scope="session")
def world_of(bench_size, tmp_path_factory):
    """Return a function that builds each model and index once."""
    made = {}

    def get(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("world") / "files"
            folder.mkdir()
            made[name] = worlds.World(name, folder, texts.titles(TITLES[bench_size]))
        return made[name]

    return get


@pytest.fixture(scope="session")
def servers(world_of):
    """Return a function that starts a server of a world; it runs until another test or world needs one."""
    with ExitStack() as stack:
        kept = {}
        now = []

        def get(test, name, how):
            if now != [test, name]:
                kept.clear()
                stack.close()
                now[:] = test, name
            if how in (ALONE, BESIDE):  # the same server, other requests
                how = SHIPPED
            if how not in kept:
                kept[how] = stack.enter_context(server_of(world_of(name), how))
            return kept[how]

        yield get


def server_of(world, how):
    """Return the context manager of a server of the given kind."""
    if how == PEER:
        for package in ("faiss", "fastapi", "uvicorn", "sentence_transformers"):
            pytest.importorskip(package, reason=f"the peer {package} is not installed (extra bench)")
        return worlds.by_hand(world)
    if how in DELAYS:
        return worlds.served(world, worlds.delayed(DELAYS[how]))
    changes = {
        UNBATCHED: worlds.not_batched,
        IN_SERVER: worlds.in_the_server,
        FOREGROUND: worlds.documents_in_the_foreground,
    }
    return worlds.served(world, changes.get(how, worlds.as_shipped))


def count_of(bench_size, world, concurrency=1):
    """Return the number of requests per block: more for faster servers."""
    return REQUESTS[bench_size][world] * min(4, 1 + concurrency // 8)


def test_load(measure, bench_size, servers, world_of, world, model, concurrency, engine):
    count = count_of(bench_size, world, concurrency)
    asking = f"{concurrency} client{'s' if concurrency > 1 else ''}"
    parameters = {"world": world, "model": model, "documents": len(world_of(world).documents)}
    about = {
        "group": f"{world}, {model}, {asking}, {parameters['documents']:,} titles",
        "name": engine,
        "ours": engine == SHIPPED,
    }
    if engine == IN_PROCESS:
        in_process(measure, world_of(world), model, count, about | {"parameters": parameters})
        return
    about["parameters"] = parameters | {"over": "concurrency", "concurrency": concurrency}
    running = servers("load", world, IN_SERVER if engine == OVER_HTTP else engine)
    if engine == OVER_HTTP:
        running = running.over_http()
    found = under_load(measure, running, model, count, concurrency, refusing=world != worlds.MINI, **about)
    if engine == PEER:
        return
    outputs = clients.outputs(found.last)
    assert outputs["EMBEDDING" if model == "query_encoder" else "IDS"].shape[0] == 1
    if model == "search" and concurrency == 1 and measure.block == 0:
        compare(running, world_of(world))


def in_process(measure, world, model, count, about):
    """Measure the baseline of the server: the same queries by the library, back to back."""
    ask = asked(world, model)
    queries = itertools.cycle(texts.questions())
    for query in itertools.islice(queries, 20):
        ask(query)
    times = []

    def run():
        for query in itertools.islice(queries, count):
            begun = time.perf_counter()
            ask(query)
            times.append(time.perf_counter() - begun)
        return times

    measure.once(run, compared=lambda: sum(times), **about)
    measure.note(rate=len(times) / sum(times))


def asked(world, model):
    return world.retriever.search if model == "search" else world.retriever.model.encode_query


def compare(running, world):
    """Compare a response of the server with the library's hits."""
    query = next(running.texts)
    build = (
        partial(clients.http_request, address=running.address)
        if running.client == "http"
        else clients.request
    )
    (found,) = running.send(load.Load(iter([build("search", [query])])))
    hits = world.retriever.search(query, 10)
    assert clients.outputs(found.last)["IDS"][0].tolist() == [hit.id for hit in hits]


def test_gaps(measure, world_of, world, model, engine):
    """What pauses between queries, as with real clients, cost the library: cold caches and idle cores."""
    gap = GAPS[engine]
    ask = asked(world_of(world), model)

    def queries():
        for query in itertools.cycle(texts.questions()):
            time.sleep(gap)
            yield (query,)

    measure(
        ask,
        queries(),
        group=f"{world}, {model} in process",
        name=engine,
        ours=not gap,
        parameters={"world": world, "model": model},
    )


def test_beside_documents(measure, bench_size, servers, world, way, engine):
    """Query latency under bulk document load: four requests of 64 documents in flight."""
    running = servers("load", world, FOREGROUND if engine == FOREGROUND else SHIPPED)
    count = count_of(bench_size, world)
    rows = 2 if bench_size == "smoke" else 64
    queries = load.Load(
        iter(running.requests("search", count)), rate=RATES[world] if way == "open loop" else None
    )
    bulk = [clients.request("document_encoder", some) for some in batches(texts.answers(), rows, 40)]
    others = [load.Load(itertools.cycle(bulk), 4)] if engine != ALONE else []
    found = []

    def run():
        found.extend(running.send(queries, *others))
        return found[0].latencies

    measure.once(
        run, compared=lambda: np.median(found[0].latencies),
        group=f"{world}, searches beside documents, {way}", name=engine, ours=engine == ALONE,
        parameters={"world": world, "model": "search", "way": way},
    )  # fmt: skip
    note(measure, found[0])
    for one in found:
        assert not one.errors
    if others:
        documents = rows * len(found[1].latencies) / found[1].seconds
        measure.note(documents_per_second=documents, note=f"{documents:,.0f} documents a second beside")


def test_delay(measure, bench_size, servers, world, model, concurrency, engine):
    """Queue delay of the dynamic batcher."""
    under_load(
        measure, servers("delay", world, engine), model, count_of(bench_size, world, concurrency), concurrency,
        refusing=world != worlds.MINI,
        group=f"{world}, {model}, concurrency {concurrency}, by queue delay",
        name=engine, ours=DELAYS[engine] == 0,
        parameters={"world": world, "model": model, "concurrency": concurrency, "delay_us": DELAYS[engine]},
    )  # fmt: skip


def batches(some, rows, most):
    return [some[i : i + rows] for i in range(0, min(len(some) - rows + 1, rows * most), rows)]


def under_load(measure, running, model, count, concurrency, *, refusing, **about):
    """Send the requests of a block, record the measurements and return them."""
    running.measure(model, min(count, 20), concurrency)  # its processes were idle
    found = []
    loads = load.Load(iter(running.requests(model, count)), concurrency)

    def run():
        found.extend(running.send(loads))
        return found[0].latencies

    # Refused requests take no time, so extrapolate from the rate of answered ones.
    measure.once(run, compared=lambda: count / found[0].rate, **about)
    refused = sum(found[0].errors.values())
    assert len(found[0].latencies) + refused == count
    assert not refused or (refusing and set(found[0].errors) == {"UNAVAILABLE"})
    note(measure, found[0], refused)
    measure.note(concurrency=concurrency)
    return found[0]


def note(measure, found, refused=0):
    """Record processor time, throughput and the parts of a request."""
    share = found.client / found.seconds / len(os.sched_getaffinity(0))
    words = [f"client {share:.0%} of the machine"]
    for name, parts in found.models.items():
        words.append(f"{name} {parts['total']:,.0f} us, batch {parts.get('batch', 0):g}")
    # With many clients of a slow network the wait exceeds the server's limit.
    words += [f"{refused} refused"] if refused else []
    measure.note(rate=found.rate, note="; ".join(words))
    if found.models:
        spent = {part: sum(parts[part] for parts in found.models.values()) for part in load.PARTS}
        spent["elsewhere"] = max(0.0, 1e6 * float(np.mean(found.latencies)) - sum(spent.values()))
        measure.note(parts_us={part: [value, None] for part, value in spent.items()})
