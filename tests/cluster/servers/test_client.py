"""Shards behind inference servers: the hits of `Collection.search` to the last bit, and what happens when servers are away."""

import asyncio
import threading
from contextlib import asynccontextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tritonclient", reason="needs the extra server")

from cluster_corpus import WORDS
from local_servers import start
from local_shards import rows

from care_accel import CareError, Collection
from care_accel.cluster.servers import shard_model
from care_accel.cluster.servers.client import ShardedClient
from care_accel.cluster.servers.connections import Servers, ShardServer
from care_accel.cluster.shards.calls import Limits
from care_accel.encoding.runtimes.attempts import ServerError
from care_accel.serving.gateway.upstream import as_api_error

NUMBERS = (1, 2, 3)
QUICK = Limits(shard=5.0, hedge=5.0, refresh=0.05, settle=0.2, start=20.0)
FILTERS = (None, "department = '儿科'", "year >= 2010 AND department <> '内科'", "later = 1", "year < 0")


@asynccontextmanager
async def connected(servers, **options):
    client = ShardedClient([one.address for one in servers], **{"limits": QUICK, **options})
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture(scope="module")
def started(model, tmp_path_factory):
    """Return a function that starts the server of a shard."""
    folder = tmp_path_factory.mktemp("repositories")
    servers = []

    def start_one(uri, number, of):
        servers.append(start(folder, uri, model, number, of))
        return servers[-1]

    yield start_one
    for one in servers:
        one.close()


@pytest.fixture(scope="module")
def collections(model, tmp_path_factory, started):
    """Return a collection of whole documents and one of chunks, with a history, and the servers of each by their number."""
    folder = tmp_path_factory.mktemp("served")
    found = {}
    for name, options in (("whole", {}), ("chunks", {"chunk_tokens": 12})):
        made = Collection.create(folder / name, model, **options)
        made.upsert(rows(range(24)))
        made.upsert(rows(range(4, 9), draft=1))
        made.delete(ids=["d2", "d5", "d17"])
        made.upsert([{**row, "later": 1} for row in rows(range(24, 31))])
        servers = {of: [started(made.uri, number, of) for number in range(of)] for of in NUMBERS}
        found[name] = SimpleNamespace(collection=made, servers=servers)
    return found


@pytest.fixture
def pair(collections):
    """Return a collection and the servers of its two shards, which are as they were afterwards."""
    found = collections["whole"]
    yield found.collection, found.servers[2]
    for one in found.servers[2]:
        one.down = one.overloaded = False
        one.slow = 0.0


def equal(found, expected):
    """Check that what a client has got are some hits."""
    for row, hits in enumerate(expected):
        most = len(hits)
        assert found.document_ids[row] == [
            *(hit.id for hit in hits),
            *[None] * (found.ids.shape[1] - most),
        ]
        assert found.scores[row, :most].tolist() == [hit.score for hit in hits]
        assert found.documents[row][:most] == [hit.document for hit in hits]
        assert found.spans[row][:most] == [hit.span for hit in hits]
        assert (found.ids[row] >= 0).sum() == most


@settings(deadline=None, max_examples=25)
@given(
    kind=st.sampled_from(["whole", "chunks"]),
    of=st.sampled_from(NUMBERS),
    queries=st.lists(st.sampled_from([*WORDS, "多休息", "儿童怎么治疗"]), min_size=1, max_size=3),
    k=st.integers(1, 40),
    condition=st.sampled_from(FILTERS),
)
def test_any_number_of_servers_gives_the_hits_of_one_index(collections, kind, of, queries, k, condition):
    collection = collections[kind].collection

    async def search():
        async with connected(collections[kind].servers[of]) as client:
            return await client.search(queries, k, filters=[condition] * len(queries))

    found = asyncio.run(search())
    equal(found, collection.search(queries, k, filter=condition))
    assert found.shares.tolist() == [1.0] * len(queries)


def test_more_queries_than_a_request_has_and_filters_of_their_own(pair):
    collection, servers = pair
    queries = WORDS * 13
    filters = ["year >= 2010", *[None] * (len(queries) - 1)]

    async def search():
        async with connected(servers) as client:
            return await client.search(queries, 4, filters=filters)

    expected = [*collection.search(queries[:1], 4, filter="year >= 2010"), *collection.search(queries[1:], 4)]
    equal(asyncio.run(search()), expected)


def test_a_query_is_encoded_once(pair):
    collection, servers = pair
    before = sum(one.asked.count("query_encoder") for one in servers)

    async def search():
        async with connected(servers) as client:
            return [await client.search(["感冒"], 3) for _ in range(4)]

    for found in asyncio.run(search()):
        equal(found, collection.search(["感冒"], 3))
    assert sum(one.asked.count("query_encoder") for one in servers) - before == 4
    assert all("query_encoder" in one.asked for one in servers)  # in turn


def test_a_mistake_is_its_senders(pair):
    collection, servers = pair
    with pytest.raises(CareError) as expected:
        collection.search("感冒", filter="nothing = 1")

    async def search(**options):
        async with connected(servers) as client:
            await client.search(["感冒"], **options)

    for options, told in (
        ({"filters": ["nothing = 1"]}, str(expected.value)),
        ({"k": 1001}, "K 0 is 1001; it must be 1 to 1,000"),
    ):
        with pytest.raises(ServerError) as refused:
            asyncio.run(search(**options))
        assert refused.value.status == "INVALID_ARGUMENT"
        assert told in str(refused.value)


def test_a_server_that_is_away_is_told_and_comes_back(pair):
    collection, servers = pair

    async def search():
        async with connected(servers) as exact, connected(servers, require_all=False) as partial:
            assert await exact.ready()
            servers[1].down = True
            for _ in range(2):
                with pytest.raises(ServerError, match="1 of 2 shards do not answer") as told:
                    await exact.search(["感冒"], 3)
            marked = await partial.search(["感冒"], 40)
            asked = await exact.search(["感冒"], 40, partial=True)
            assert asked.document_ids == marked.document_ids
            assert asked.shares[0] == marked.shares[0] < 1
            ready = await exact.ready()
            servers[1].down = False
            async with asyncio.timeout(10):
                while not await exact.ready():
                    await asyncio.sleep(0.02)
            return told.value, marked, ready, await exact.search(["感冒"], 40)

    refused, marked, ready, whole = asyncio.run(search())
    error = as_api_error(refused)
    assert (error.status, error.code) == (503, "shards_unavailable")
    assert "1 of 2 shards of the collection do not answer" in error.message
    assert "127.0.0.1" not in error.message
    assert not ready
    lost = servers[1].model.shard._versions[collection.version].documents
    assert marked.shares[0] == pytest.approx(1 - lost / len(collection))
    assert (marked.ids >= 0).sum() == len(collection) - lost
    equal(whole, collection.search(["感冒"], 40))


def test_it_starts_before_its_servers_and_answers_once_one_is_there(pair):
    collection, servers = pair
    servers[0].down = servers[1].down = True

    async def search():
        async with connected(servers) as exact, connected(servers, require_all=False) as partial:
            with pytest.raises(ServerError, match="no server of a shard answers") as told:
                await exact.search(["感冒"])
            assert told.value.status == "UNAVAILABLE"
            assert not await partial.ready()
            servers[1].down = False
            marked = await partial.search(["感冒"], 40)
            with pytest.raises(
                ServerError, match=r"1 of 2 shards do not answer \(shard 1/2: no server has it"
            ):
                await exact.search(["感冒"])
            servers[0].down = False
            async with asyncio.timeout(10):
                while not await exact.ready():
                    await asyncio.sleep(0.02)
            return marked, await exact.search(["感冒"], 40)

    marked, whole = asyncio.run(search())
    assert 0 < marked.shares[0] < 1
    equal(whole, collection.search(["感冒"], 40))


def test_of_two_servers_of_a_shard_one_may_be_lost_or_slow(pair, started):
    collection, servers = pair
    twin = started(collection.uri, 1, 2)
    limits = Limits(shard=20.0, hedge=0.05, refresh=60.0, settle=0.2, start=20.0)

    async def search():
        async with connected([*servers, twin], limits=limits) as client:
            found = [await client.search(WORDS, 5)]
            servers[1].down = True
            found += [await client.search(WORDS, 5) for _ in range(3)]
            servers[1].down = False
            twin.slow = 0.5
            return found + [await client.search(WORDS, 5) for _ in range(3)]

    for one in asyncio.run(search()):
        equal(one, collection.search(WORDS, 5))


def test_an_overloaded_server_is_not_taken_for_one_that_is_gone(pair):
    _, servers = pair

    async def search():
        async with connected(servers) as client:
            await client.search(["感冒"])
            servers[0].overloaded = servers[1].overloaded = True
            with pytest.raises(ServerError, match="overloaded") as told:
                await client.search(["感冒"])
            servers[0].overloaded = servers[1].overloaded = False
            await client.search(["感冒"])
            return told.value

    assert as_api_error(asyncio.run(search())).code == "server_unavailable"


def test_a_new_version_is_searched_once_all_have_it(model, tmp_path, started):
    collection = Collection.create(tmp_path / "changes", model)
    collection.upsert(rows(range(20)))
    servers = [started(collection.uri, number, 2) for number in range(2)]
    before = collection.search(WORDS, 8)
    load, may = servers[1].model.shard.load, []
    first = collection.version
    servers[1].model.shard.load = lambda version: (
        load(version) if may or version == first else load(first)._replace(ready=False)
    )

    async def search():
        async with connected(servers) as client:
            await client.search(WORDS, 8)
            collection.upsert(rows(range(10, 25), draft=2))
            collection.delete(ids=["d0", "d1"])
            async with asyncio.timeout(20):
                while not servers[0].model.shard.load(collection.version).ready:
                    await asyncio.sleep(0.02)
            waiting = await client.search(WORDS, 8)
            may.append(True)
            async with asyncio.timeout(20):
                while (await client._routed()).version != collection.version:
                    await asyncio.sleep(0.02)
            return waiting, await client.search(WORDS, 8)

    waiting, after = asyncio.run(search())
    equal(waiting, before)
    equal(after, collection.search(WORDS, 8))


def test_servers_that_do_not_belong_together_are_not_asked(pair, collections, started, caplog):
    collection, servers = pair
    others = [collections["chunks"].servers[2][1], collections["whole"].servers[3][1]]

    async def search():
        async with connected([*servers, *others]) as client:
            return await client.search(WORDS, 5)

    equal(asyncio.run(search()), collection.search(WORDS, 5))
    assert "serves another collection than the other servers" in caplog.text
    assert "serves shard 2/3, where others have one of 2" in caplog.text
    with pytest.raises(CareError, match="given twice"):
        ShardedClient([servers[0].address] * 2)


def test_a_server_that_has_another_shard_now_is_not_taken_for_the_one_before(pair, model):
    """A request names the part that it means: a server that was started again with another one finds nothing for it."""
    collection, servers = pair
    part = servers[1].model.part

    async def search():
        async with connected(servers) as client:
            await client.search(["感冒"], 3)
            servers[1].model.part = part._replace(number=0)
            with pytest.raises(ServerError, match="1 of 2 shards do not answer"):
                await client.search(["感冒"], 3)
            servers[1].model.part = part
            async with asyncio.timeout(10):
                while not await client.ready():
                    await asyncio.sleep(0.02)
            return await client.search(["感冒"], 3)

    equal(asyncio.run(search()), collection.search(["感冒"], 3))


def test_documents_are_encoded_and_described_by_any_of_them(pair, model):
    _, servers = pair

    async def encode():
        async with connected(servers) as client:
            servers[0].down = True
            return await client.encode("document", WORDS), await client.describe("query", refresh=True)

    encoded, described = asyncio.run(encode())
    assert np.array_equal(encoded.vectors, model.encode_document(WORDS))
    assert described.revision == model.revision("query")


def test_a_server_whose_scan_goes_wrong_ends(collections, started, monkeypatch):
    monkeypatch.setattr(shard_model, "_LOOK_S", 0.01)
    monkeypatch.setattr(shard_model, "_CHECK_S", 0.0)
    ended = threading.Event()
    monkeypatch.setattr(shard_model, "_end", lambda code: ended.set())
    server = started(collections["whole"].collection.uri, 0, 2)
    assert not ended.wait(0.2)
    (version,) = server.model.shard._versions.values()
    version.searcher.snapshot.index.remove([version.canary.position])
    assert ended.wait(20)


def test_servers_of_a_shard_take_turns_whatever_else_is_asked_and_one_that_failed_is_last():
    one, other = some = [ShardServer(f"127.0.0.1:{port}", 1.0) for port in (1, 2)]
    servers = Servers(some)
    firsts = []
    for _ in range(4):
        next(servers.in_turn(some, "encoding"))
        firsts.append(next(servers.in_turn(some, 0)))
    assert firsts == [one, other, one, other]
    one.failed()
    assert [list(servers.in_turn(some, 0)) for _ in range(2)] == [[other, one]] * 2
