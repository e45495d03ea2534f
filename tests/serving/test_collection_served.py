"""A collection behind the real server: own ids, filters, and changes that other processes make."""

import shutil
import subprocess
import sys
import threading
import time

import pytest

from care_accel import CareError, Collection, DualEncoder, Retriever
from care_accel.encoding.runtimes.server import ServerClient
from care_accel.serving.repository.python_backend import write_repository
from care_accel.serving.tritonserver.server import Server

pytestmark = [pytest.mark.server, pytest.mark.slow]

TEXTS = ["高血压患者应低盐饮食", "糖尿病要控制主食", "感冒多喝水", "胃炎饮食清淡", "骨折后固定", "咳嗽三天"]
QUERIES = ["高血压怎么办", "孩子咳嗽", "骨头断了"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("served") / "集合"


@pytest.fixture(scope="module")
def collection(folder):
    made = Collection.create(folder, DualEncoder.from_pretrained("care-mini"), chunk_tokens=24)
    made.upsert([{"id": f"病{i}", "text": text, "year": 2000 + i} for i, text in enumerate(TEXTS)])
    long = "。".join(TEXTS) + "。尿频尿急要查尿常规。"
    made.upsert([{"id": "long", "text": long, "year": 1990}])
    return made


@pytest.fixture(scope="module")
def address(require_server, collection, folder, tmp_path_factory):
    repository = tmp_path_factory.mktemp("repository") / "model_repository"
    write_repository(repository, "care-mini", index=folder)
    for name in ("document_encoder", "query_encoder"):  # search has its own
        shutil.rmtree(repository / name)
    server = Server(repository)
    try:
        server.start(300)
        yield server.grpc
    finally:
        server.stop()


@pytest.fixture
def client(address):
    with ServerClient(address) as one:
        yield one


def test_hits_are_those_of_the_collection_with_ids_and_spans(client, collection, address):
    found = client.search(QUERIES, 4)
    expected = collection.search(QUERIES, 4)
    assert found.document_ids == [[hit.id for hit in hits] for hits in expected]
    assert found.documents == [[hit.document for hit in hits] for hits in expected]
    assert found.spans == [[hit.span for hit in hits] for hits in expected]
    with Retriever.from_server(address) as retriever:
        hits = retriever.search("尿频", k=1)
    assert hits[0].id == "long"
    assert "尿频" in hits[0].document["text"][slice(*hits[0].span)]


def test_each_query_has_its_own_filter_and_k(client, collection):
    filters = ["year >= 2003", None, "year < 1995"]
    found = client.search(QUERIES, 3, filters=filters)
    for row, (query, expression) in enumerate(zip(QUERIES, filters, strict=True)):
        expected = [hit.id for hit in collection.search(query, 3, filter=expression)]
        assert [name for name in found.document_ids[row] if name is not None] == expected


def test_a_wrong_filter_is_its_senders_mistake_alone(client):
    with pytest.raises(CareError, match="No field named nothing; the fields are id"):
        client.search(QUERIES, 3, filters=["nothing = 1", None, None])
    with pytest.raises(CareError, match="parentheses"):
        client.search(QUERIES[:1], 3, filters=["true) or (true"])
    with pytest.raises(CareError, match="2 filters for 1 texts"):
        client.search(QUERIES[:1], 3, filters=["true", "true"])
    assert client.search(QUERIES, 3).ids.shape == (3, 3)


WRITER = """
import sys
from care_accel import Collection
c = Collection.open(sys.argv[1])
c.upsert([{"id": "new", "text": "独一无二的新文档", "year": 2024}])
print("written", flush=True)
sys.stdin.readline()
c.delete(["new"])
print("deleted", flush=True)
"""


def test_what_another_process_writes_is_served_soon_and_no_answer_is_lost_or_mixed(client, folder, address):
    failures, ended = [], threading.Event()

    def ask():
        try:
            with ServerClient(address) as one:
                while not ended.is_set():
                    found = one.search(QUERIES, 5)
                    for row, documents in zip(found.document_ids, found.documents, strict=True):
                        assert len(set(row)) == len(row) == 5
                        assert [document["id"] for document in documents] == row
        except Exception as failure:
            failures.append(failure)

    def first():
        return client.search(["独一无二的新文档"], 1).document_ids[0][0]

    def until(condition):
        begun = time.monotonic()
        while not condition():
            assert time.monotonic() - begun < 20
            time.sleep(0.05)

    asking = [threading.Thread(target=ask) for _ in range(3)]
    for thread in asking:
        thread.start()
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert writer.stdout.readline() == "written\n"
        until(lambda: first() == "new")
        writer.stdin.write("\n")
        writer.stdin.flush()
        assert writer.stdout.readline() == "deleted\n"
        until(lambda: first() != "new")
    finally:
        writer.communicate()
        ended.set()
        for thread in asking:
            thread.join()
    assert not failures


def test_a_collection_of_another_model_is_refused_before_anything_is_written(folder, collection, tmp_path):
    with pytest.raises(CareError, match="made by document encoder"):
        write_repository(tmp_path / "r", "care-mini", index=folder, max_tokens=100)
    assert not (tmp_path / "r").exists()
