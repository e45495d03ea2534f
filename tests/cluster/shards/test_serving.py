"""Shards on Ray Serve, with replicas that are killed under load (``make cluster``)."""

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from cluster_corpus import WORDS, document

from care_accel import CareError, Collection
from care_accel.cluster.connection import connected
from care_accel.cluster.shards import ShardedCollection
from care_accel.cluster.shards.calls import Limits, ShardAway
from care_accel.cluster.shards.deployment import deploy
from care_accel.encoding.runtimes.server import AsyncServerClient, ServerClient
from care_accel.serving.gateway.upstream import Upstream

ray = pytest.importorskip("ray", reason="needs the extra cluster: make cluster")
pytest.importorskip("grpc_reflection", reason="needs the extra cluster: make cluster")
LIMITS = Limits(shard=20.0, refresh=0.2, settle=5.0, start=120.0)


@pytest.fixture(scope="module")
def collection(model, tmp_path_factory):
    made = Collection.create(tmp_path_factory.mktemp("served") / "collection", model)
    made.upsert([document(number) for number in range(200)])
    return made


def served(collection, address, **options):
    options = {"shards": 2, "cpus": 0.1, "limits": LIMITS, **options}
    return ShardedCollection.serve(collection.uri, cluster=address, **options)


def replicas(searched):
    """Return the process numbers of the replicas by shard."""
    found = {}
    for number in range(searched.shards):
        shard = searched._router._shards[number]
        names = set()
        for _ in range(60):
            loaded = searched._run(shard.call("load", searched.version))
            names.add(loaded.replica)
            if len(names) == searched.replicas:
                break
        found[number] = sorted(int(name.partition("-")[0]) for name in names)
    return found


def test_two_shards_on_a_cluster_give_the_hits_of_the_collection_and_follow_it(collection, address):
    searched = served(collection, address)
    try:
        assert searched.search(WORDS, 7) == collection.search(WORDS, 7)
        assert searched.search("感冒", filter="year < 2050") == collection.search(
            "感冒", filter="year < 2050"
        )
        with pytest.raises(CareError, match="nothing"):
            searched.search("感冒", filter="nothing = 1")
        collection.upsert([document(number, draft=1) for number in range(190, 210)])
        end = time.monotonic() + 60
        while searched.version != collection.version:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert searched.search(WORDS, 7) == collection.search(WORDS, 7)
        with ShardedCollection.connect(collection.uri, cluster=address, limits=LIMITS) as other:
            assert (other.shards, other.replicas) == (2, 1)
            assert other.search(WORDS, 7) == collection.search(WORDS, 7)
    finally:
        searched.stop()


def test_a_replica_killed_under_load_loses_no_request_and_gives_no_wrong_answer(collection, address):
    searched = served(collection, address, replicas=2)
    try:
        expected = collection.search(WORDS, 7)
        running = replicas(searched)
        assert all(len(found) == 2 for found in running.values())
        wrong, failed, counts = [], [], []
        ended = threading.Event()

        def ask():
            done = 0
            while not ended.is_set():
                try:
                    wrong.extend([1] if searched.search(WORDS, 7) != expected else [])
                except Exception as cause:
                    failed.append(cause)
                done += 1
            counts.append(done)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in (0, 1):
            time.sleep(0.7)
            os.kill(running[number][0], signal.SIGKILL)
        time.sleep(3.0)
        ended.set()
        for thread in threads:
            thread.join()
        assert (wrong, failed) == ([], [])
        assert sum(counts) > 20
    finally:
        searched.stop()


def test_without_another_replica_the_answer_is_refused_or_partial_until_it_is_back(collection, address):
    searched = served(collection, address, limits=dataclasses.replace(LIMITS, shard=0.5))
    try:
        os.kill(replicas(searched)[1][0], signal.SIGKILL)
        vectors = collection.model.encode_query(["感冒"])
        with pytest.raises(ShardAway, match="1 of 2 shards do not answer"):
            searched.search_vectors(vectors, 5)
        answer = searched.search_vectors(vectors, 5, require_all=False)
        assert answer.partial
        assert 0.4 < answer.share < 0.6
        end = time.monotonic() + 60
        while searched.away:
            assert time.monotonic() < end
            time.sleep(0.1)
        assert searched.search("感冒", 5) == collection.search("感冒", 5)
    finally:
        searched.stop()


def test_shards_that_cannot_start_or_have_no_place_are_told_and_ended(collection, address):
    from ray import serve

    with pytest.raises(CareError, match=r"needs 64 CPU, the cluster has 2 CPU"):
        served(collection, address, cpus=64, limits=dataclasses.replace(LIMITS, start=3.0))
    with (
        connected(address),
        pytest.raises(CareError, match=r"cannot start: /nowhere: no such folder"),
    ):
        deploy("/nowhere", 1, 1, gpus=0, cpus=0.1, seconds=60)
    with connected(address):
        end = time.monotonic() + 60
        while serve.status().applications:
            assert time.monotonic() < end
            time.sleep(0.1)


def test_the_command_serves_clients_of_the_inference_server_and_the_gateway(collection, address):
    command = [
        *(sys.executable, "-m", "care_accel", "serve", "--collection", collection.uri, "--cluster", address),
        *("--shards", "3", "--cpus-per-shard", "0.1", "--grpc-port", "0", "--metrics-port", "0"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith("ready: grpc://127.0.0.1:"), line
        place = line.split()[1].removeprefix("grpc://")
        expected = collection.search(WORDS, 4, filter="year >= 2003")
        with ServerClient(place) as client:
            found = client.search(WORDS, 4, filters=["year >= 2003"] * len(WORDS))
            assert found.document_ids == [[hit.id for hit in row] for row in expected]
            assert found.scores.tolist() == [[hit.score for hit in row] for row in expected]
            assert found.documents == [[hit.document for hit in row] for row in expected]
            assert (client.encode("query", WORDS).vectors == collection.model.encode_query(WORDS)).all()

        async def through_the_gateway():
            async with AsyncServerClient(place) as client:
                upstream = Upstream(client, 10.0)
                assert await upstream.ready()
                return await upstream.search(WORDS, 4, "retrieval", "year >= 2003")

        pieces = asyncio.run(through_the_gateway())
        assert [row for piece in pieces for row in piece.document_ids] == found.document_ids
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        process.stdout.close()
