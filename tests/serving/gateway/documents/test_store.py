"""What happens to writes when the server, the table or other writers stand in the way."""

import asyncio
import threading

import pytest

from care_accel import CareError, Collection
from care_accel.collection.storage.lance_errors import WriteConflict
from care_accel.encoding.runtimes.attempts import ServerError
from care_accel.errors import VersionRemoved
from care_accel.serving.gateway.documents.encoder import EncoderChanged
from care_accel.serving.gateway.documents.store import DocumentStore
from care_accel.serving.gateway.errors import ApiError

NEW = {"id": "n1", "text": "骨折后应固定患肢。"}


def put(client, *rows):
    return client.put("/v1/documents", json={"documents": list(rows)})


def code(answer):
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (ServerError("UNAVAILABLE", "words of the server"), (503, "server_unavailable")),
        (ServerError("DEADLINE_EXCEEDED", "words of the server"), (504, "server_too_slow")),
        (ServerError("INVALID_ARGUMENT", "document_encoder: TEXT 0 is bad"), (400, "refused_by_server")),
        (ServerError("INTERNAL", "words of the server"), (502, "server_failed")),
        (EncoderChanged("another model"), (503, "wrong_model")),
        (WriteConflict("others"), (409, "write_conflict")),
        (CareError("/srv/articles: the disk is full; 头痛"), (503, "not_written")),
        (RuntimeError("头痛"), (500, "internal_error")),
    ],
)
def test_a_write_that_fails_says_why_writes_nothing_and_the_next_one_works(
    gateway, now, quick, caplog, fault, expected
):
    client, before = gateway(), now()
    quick.fault = fault
    answer = put(client, NEW)
    assert code(answer) == expected
    assert "头痛" not in answer.text + caplog.text
    assert "words of the server" not in answer.text
    assert now() == before
    quick.fault = None
    assert put(client, NEW).json()["new"] == 1


def test_a_version_that_is_removed_during_a_deletion_is_no_wrong_filter(gateway, now, monkeypatch):
    def gone(self, filter):
        raise VersionRemoved("the version that is open was removed")

    client, before = gateway(), now()
    monkeypatch.setattr(Collection, "count", gone)
    condition = {"filter": "year > 1"}
    assert code(client.request("DELETE", "/v1/documents", json=condition)) == (503, "not_written")
    monkeypatch.undo()
    assert now() == before


def test_the_log_says_that_the_disk_is_full(gateway, quick, caplog):
    quick.fault = CareError("/srv/articles: the disk is full; what was committed before is whole")
    put(gateway(), NEW)
    assert "could not be written: the disk is full" in caplog.text
    assert "/srv" not in caplog.text


def test_a_server_with_another_model_is_refused_until_it_has_the_right_one(gateway, now, quick, caplog):
    client, before = gateway(), now()
    quick.number = 2
    assert code(put(client, NEW)) == (503, "wrong_model")
    assert "sha256:1" in caplog.text
    assert "sha256:2" in caplog.text
    assert now() == before
    assert quick.closed == 1, "its connection is closed"
    quick.number = 1
    assert put(client, NEW).json()["new"] == 1


def test_a_model_that_changes_later_is_looked_at_again(gateway, quick):
    client = gateway()
    assert put(client, NEW).status_code == 200
    quick.fault, quick.number = EncoderChanged("now another"), 2
    for text in ("a", "b"):
        assert code(put(client, {"id": "n2", "text": text})) == (503, "wrong_model")
    quick.fault, quick.number = None, 1
    assert put(client, {"id": "n2", "text": "c"}).status_code == 200


def test_a_write_waits_for_the_one_before_but_not_for_ever_and_few_wait(folder, quick):
    held, begun = threading.Event(), threading.Event()

    def connect():
        begun.set()
        held.wait(10)
        return quick

    async def main():
        store = DocumentStore(Collection.open(folder), connect, patience=0.05)
        first = asyncio.ensure_future(store.delete(["a1"], None))
        await asyncio.to_thread(begun.wait, 10)
        with pytest.raises(ApiError) as waited:
            await store.delete(["a/2 ü"], None)
        assert (waited.value.status, waited.value.code) == (503, "overloaded")
        first.cancel()  # who asked has gone; what has begun ends
        held.set()
        await store.close()
        places = [store.place() for _ in range(9)]
        for place in places[:8]:
            place.__enter__()
        assert store.waiting == 7
        with pytest.raises(ApiError, match="too many writes"):
            places[8].__enter__()
        for place in places[:8]:
            place.__exit__(None, None, None)
        assert store.waiting == 0

    asyncio.run(main())
    assert set(Collection.open(folder).ids()) == {"a/2 ü"}


def test_documents_are_read_and_written_without_an_index_of_the_collection(folder, quick):
    # Searches are the server's, by the index that was chosen there.
    async def main():
        reader = Collection.open(folder)
        store = DocumentStore(reader, lambda: quick)
        assert (await store.get("a1"))["id"] == "a1"
        await store.fields()
        assert (await store.delete(["a1"], None))[0] == 1
        assert (await store.delete(None, "department = '儿科'"))[0] == 1
        assert await store.get("a1") is None
        assert reader._state.searcher is None
        assert store._writer[0]._state.searcher is None
        await store.close()

    asyncio.run(main())


def test_others_may_write_to_the_collection_meanwhile(gateway, folder, quick):
    client = gateway()
    assert put(client, NEW).status_code == 200
    other = Collection.open(folder, model=quick)
    other.upsert([{"id": "o1", "text": "other", "stars": 5}])
    assert client.get("/v1/documents/o1").json()["stars"] == 5
    answer = put(client, {"id": "o2", "text": "x", "stars": "five"})
    assert code(answer) == (400, "invalid_document")
    assert "field 'stars' is a text" in answer.json()["error"]["message"]
    assert put(client, {"id": "o1", "text": "other", "stars": 5}).json()["same"] == 1
