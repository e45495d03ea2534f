"""Two real inference servers, each with a shard, behind the gateway."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

pytest.importorskip("starlette", reason="needs the extra gateway")

from local_shards import rows
from starlette.testclient import TestClient

from care_accel import Collection
from care_accel.cluster.servers.client import ShardedClient
from care_accel.cluster.servers.repository import write_shard_repository
from care_accel.encoding.runtimes.attempts import ServerError
from care_accel.encoding.runtimes.server import ServerClient
from care_accel.serving.gateway import Settings
from care_accel.serving.gateway.app import create_app
from care_accel.serving.tritonserver.server import Server

pytestmark = [pytest.mark.server, pytest.mark.slow]

QUERIES = ["感冒怎么办", "骨折后怎么治疗", "多休息"]


@pytest.fixture(scope="module")
def collection(model, tmp_path_factory):
    made = Collection.create(tmp_path_factory.mktemp("shards") / "集合", model, chunk_tokens=12)
    made.upsert(rows(range(40)))
    return made


@pytest.fixture(scope="module")
def servers(require_server, collection, tmp_path_factory):
    folder = tmp_path_factory.mktemp("repositories")
    started = []
    for number in range(2):
        repository = folder / str(number)
        write_shard_repository(repository, collection.uri, (number, 2), "care-mini")
        shutil.rmtree(repository / "document_encoder")  # which is not asked
        started.append(Server(repository))
    with ExitStack() as stack:
        for server in started:
            stack.push(server)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda server: server.start(300), started))
        yield started


def test_the_gateway_answers_from_all_shards_or_says_what_is_missing(servers, collection):
    """One test, as the servers take long to start, and one of them ends in it."""
    addresses = [server.grpc for server in servers]
    with ServerClient(addresses[0]) as alone, pytest.raises(ServerError) as refused:
        alone.search(QUERIES)  # nobody takes the hits of a shard for those of the collection
    assert refused.value.status == "NOT_FOUND"

    def answers(client, **more):
        answer = client.post("/v1/search", json={"query": QUERIES, "k": 5} | more)
        return answer.status_code, answer.json()

    def same(body, **options):
        expected = collection.search(QUERIES, 5, **options)
        for row, hits in zip(body["data"], expected, strict=True):
            assert [(hit["id"], hit["score"]) for hit in row["hits"]] == [(hit.id, hit.score) for hit in hits]
            assert [hit["document"] for hit in row["hits"]] == [hit.document for hit in hits]
            assert [tuple(hit["span"]) for hit in row["hits"]] == [hit.span for hit in hits]

    def app(**options):
        return create_app(Settings(rate=0.0), ShardedClient(addresses, **options))

    with (
        TestClient(app(), base_url="http://localhost") as exact,
        TestClient(app(require_all=False), base_url="http://localhost") as partial,
    ):
        for client in (exact, partial):
            status, body = answers(client)
            assert status == 200
            same(body)
        status, body = answers(exact, filter="year >= 2015")
        same(body, filter="year >= 2015")
        status, body = answers(exact, filter="nothing = 1")
        assert (status, body["error"]["code"]) == (400, "refused_by_server")
        assert exact.get("/readyz").status_code == 200
        servers[1].stop()
        status, body = answers(exact)
        assert (status, body["error"]["code"]) == (503, "shards_unavailable")
        assert "1 of 2 shards of the collection do not answer" in body["error"]["message"]
        status, body = answers(partial)
        assert status == 200
        assert [row["partial"] for row in body["data"]] == [True] * 3
        assert 0 < body["data"][0]["share"] < 1
