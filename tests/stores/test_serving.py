"""Serving a collection of an object store: by an inference server, and by shards."""

import asyncio
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cluster_corpus import WORDS, document

from care_accel import CareError, Collection
from care_accel.cli import main
from care_accel.cluster.shards import Router, Shard
from care_accel.cluster.shards.followed import FollowedTable
from care_accel.encoding.runtimes.server import ServerClient
from care_accel.serving.backend import live_index
from care_accel.serving.repository.python_backend import write_repository
from care_accel.serving.tritonserver.server import Server

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))
from local_shards import Local
from python_backend import PythonBackend


@pytest.fixture
def filled(collection):
    collection.upsert([document(number) for number in range(40)])
    return collection


def test_shards_of_a_store_give_the_hits_of_the_collection_and_follow_it(filled, options, uri):
    shards = [Local(Shard(uri, number, 2, storage_options=options)) for number in range(2)]
    vectors = filled.model.encode_query(WORDS)

    async def search():
        router = Router(FollowedTable(uri, options), shards)
        await router.start()
        try:
            return (await router.search(vectors, 5)).hits
        finally:
            await router.close()

    assert asyncio.run(search()) == filled.search(WORDS, 5)
    filled.delete(ids=["d1"])
    assert shards[0].shards[0].newest() == (filled.version, 39)
    assert asyncio.run(search()) == filled.search(WORDS, 5)


@pytest.mark.usefixtures("environment")
def test_a_served_model_reads_a_store_by_its_environment_and_follows_it(filled, uri, monkeypatch):
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", PythonBackend())
    monkeypatch.setattr(live_index, "_POLL_STORE_S", 0.05)
    model = filled.model
    known = {"name": model.name, "width": model.width, "revision": model.revision("document")}
    arguments = PythonBackend.arguments("scan", {"index": uri, "care": known, "queue": 512, "wait": 2})
    live = live_index.LiveIndex(live_index.Backend(arguments))
    try:
        _, ids, _ = live.current.search(model.encode_query(WORDS), np.full(len(WORDS), 5, np.int32), None)
        names = [[name.decode() for name in row] for row in live.current.document_ids(ids)]
        assert names == [[hit.id for hit in hits] for hits in filled.search(WORDS, 5)]
        filled.upsert([{"id": "new", "text": "独一无二的新文档"}])
        end = time.monotonic() + 20
        while len(live.current) != 41 and time.monotonic() < end:
            time.sleep(0.02)
        assert len(live.current) == 41
    finally:
        live.end()


@pytest.mark.usefixtures("environment")
def test_the_inference_server_searches_a_collection_of_a_store(require_server, filled, uri, tmp_path):
    write_repository(tmp_path / "repository", "care-mini", index=uri)
    assert "secret" not in "".join(one.read_text() for one in tmp_path.rglob("config.pbtxt"))
    with Server(tmp_path / "repository").start(300) as server, ServerClient(server.grpc) as client:
        found = client.search(WORDS, 5, filters=["year >= 2005"] * len(WORDS))
    expected = filled.search(WORDS, 5, filter="year >= 2005")
    assert found.document_ids == [[hit.id for hit in hits] for hits in expected]


@pytest.mark.usefixtures("environment")
def test_a_collection_that_is_not_in_the_store_is_told_before_a_server_starts(uri, model, tmp_path, capsys):
    assert main(["serve", "--collection", uri]) == 2
    error = capsys.readouterr().err
    assert uri in error
    assert error.count("\n") == 1
    Collection.create(uri, model)
    with pytest.raises(CareError, match="made by document encoder"):
        write_repository(tmp_path / "r", "care-mini", index=uri, max_tokens=100)
    assert not (tmp_path / "r").exists()


def test_shards_on_a_cluster_read_the_store(filled, options, uri):
    pytest.importorskip("grpc_reflection", reason="needs Ray Serve as well: make cluster")
    from nodes import cluster_of_this_machine

    from care_accel.cluster import ShardedCollection

    with cluster_of_this_machine() as address:
        searched = ShardedCollection.serve(
            uri, cluster=address, shards=2, cpus=0.1, storage_options=options, model=filled.model
        )
        try:
            assert searched.search(WORDS, 5) == filled.search(WORDS, 5)
        finally:
            searched.stop()
