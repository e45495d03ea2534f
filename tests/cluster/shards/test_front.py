"""The inference server's protocol before shards: its own clients ask it, over gRPC."""

import asyncio
import dataclasses
import threading
import urllib.request

import numpy as np
import pytest
from cluster_corpus import WORDS
from local_shards import rows, split

from care_accel import CareError, Collection
from care_accel.cluster.shards import Router
from care_accel.cluster.shards.calls import DEFAULT, ShardFailed
from care_accel.cluster.shards.followed import FollowedTable
from care_accel.cluster.shards.front import Front
from care_accel.cluster.shards.metrics import Metrics
from care_accel.encoding.runtimes.attempts import ServerError
from care_accel.encoding.runtimes.server import ServerClient
from care_accel.retriever import ServedRetriever
from care_accel.serving.gateway.api import _found


class Searched:
    """What `ShardedCollection` is to the front, over shards in this process."""

    def __init__(self, collection, shards):
        self.model, self.manifest, self.calls = collection.model, collection.manifest, shards
        self.shards = len(shards)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._router = Router(
            FollowedTable(collection.uri), shards, dataclasses.replace(DEFAULT, refresh=60.0)
        )
        self._run(self._router.start())

    @property
    def away(self):
        return self._router.away

    @property
    def version(self):
        return self._router.version

    def search_vectors(self, *arguments, **options):
        return self._run(self._router.search(*arguments, **options))

    def _run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def close(self):
        self._run(self._router.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="module")
def collection(model, tmp_path_factory):
    made = Collection.create(
        tmp_path_factory.mktemp("front") / "collection", model, chunk_tokens=12, lexical=True
    )
    made.upsert(rows(range(20)))
    return made


@pytest.fixture
def searched(collection):
    made = Searched(collection, split(collection.uri, 2))
    yield made
    made.close()


@pytest.fixture
def served(searched):
    """Return a function that starts a front and returns a client of it."""
    opened = []

    def start(timeout=20.0, **options):
        front = Front(searched, "127.0.0.1:0", **options)
        client = ServerClient(front.address, retries=0, timeout=timeout)
        opened.append((front, client))
        return client

    yield start
    for front, client in opened:
        client.close()
        front.stop()


def test_clients_of_the_inference_server_get_the_hits_of_the_collection(collection, served):
    client = served()
    assert client.ready()
    queries = WORDS * 8  # more than one request
    found = client.search(queries, 6, filters=["year >= 2003", *[None] * (len(queries) - 1)])
    expected = [*collection.search(queries[:1], 6, filter="year >= 2003"), *collection.search(queries[1:], 6)]
    assert [[name for name in row if name] for row in found.document_ids] == [
        [hit.id for hit in row] for row in expected
    ]
    for place, row in enumerate(expected):
        assert found.scores[place, : len(row)].tolist() == [hit.score for hit in row]
        assert found.documents[place][: len(row)] == [hit.document for hit in row]
        assert found.spans[place][: len(row)] == [hit.span for hit in row]
    assert found.shares.tolist() == [1.0] * len(queries)
    assert "partial" not in _found(found, 0)[0]
    encoded = client.encode("document", WORDS[:3])
    assert np.array_equal(encoded.vectors, collection.model.encode_document(WORDS[:3]))
    assert client.describe("query").revision == collection.model.revision("query")


def test_mistakes_of_a_client_are_told(served):
    client = served()
    for mistake, options in (
        ("nothing", {"filters": ["nothing = 1"]}),
        ("K 0 is not 1 to 1,000", {"k": 1001}),
        ("TASK 0", {"task": "unknown"}),
    ):
        with pytest.raises(ServerError, match=mistake) as told:
            client.search(["感冒"], **options)
        assert told.value.status == "INVALID_ARGUMENT"
    with pytest.raises(ServerError, match="TEXT 0 is empty"):
        client.search([""])


def test_a_shard_that_fails_is_not_the_client_s_mistake(searched, served):
    client = served()

    async def fails(method, *arguments):
        raise ShardFailed("a shard failed: out of memory")

    searched.calls[1].call = fails
    with pytest.raises(ServerError, match="out of memory") as told:
        client.search(["感冒"])
    assert told.value.status == "INTERNAL"


def test_without_a_shard_searches_are_refused_or_marked(collection, searched, served):
    exact, partial = served(timeout=1.0), served(require_all=False)
    searched.calls[1].down = {0}
    with pytest.raises(ServerError, match="1 of 2 shards do not answer") as told:
        exact.search(["感冒"], 3)
    assert told.value.status == "UNAVAILABLE"
    found = partial.search(["感冒"], 3)
    asked = exact.search(["感冒"], 3, partial=True)
    assert asked.document_ids == found.document_ids
    assert 0 < asked.shares[0] == found.shares[0] < 1
    assert _found(found, 0)[0]["partial"] is True
    assert _found(found, 0)[0]["share"] == found.shares[0]
    with pytest.raises(CareError, match="not all shards answered"):
        ServedRetriever(partial).search("感冒")


def test_requests_are_counted_by_how_they_end(searched, served):
    metrics = Metrics(searched)
    exact, partial = served(timeout=1.0, metrics=metrics), served(require_all=False, metrics=metrics)
    exact.search(["感冒", "骨折"], 3)
    exact.encode("query", ["感冒"])
    with pytest.raises(ServerError):
        exact.search(["感冒"], 3, filters=["nothing = 1"])
    searched.calls[1].down = {0}
    with pytest.raises(ServerError):
        exact.search(["感冒"], 3)
    partial.search(["感冒"], 3)

    def counted(model, outcome, of=metrics.requests):
        return of.labels(model, outcome)._value.get()

    assert counted("search", "whole") == counted("search", "invalid") == counted("search", "partial") == 1
    assert counted("search", "refused") >= 1  # the client tries again
    assert counted("search", "whole", metrics.texts) == 2
    assert counted("query_encoder", "whole") == 1
    with metrics.serve("127.0.0.1", 0) as url:
        page = urllib.request.urlopen(url, timeout=10).read().decode()
        with (
            pytest.raises(CareError, match="choose another --metrics-port"),
            metrics.serve("127.0.0.1", int(url.split(":")[2].split("/")[0])),
        ):
            pass
    for line in (
        'care_router_requests_total{model="search",outcome="partial"} 1.0',
        "care_router_shards 2.0",
        "care_router_shards_away 1.0",
        f"care_router_version {float(searched.version)}",
    ):
        assert line in page
    assert "感冒" not in page
