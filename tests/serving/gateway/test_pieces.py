"""Requests with more texts than the inference server takes at once."""

import asyncio
import time

import httpx2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from care_accel.encoding.runtimes.attempts import ServerError
from care_accel.serving.gateway import Settings
from care_accel.serving.gateway.pieces import MAX_BYTES, MAX_TEXTS, cut

TEXTS = [f"头痛{number}天" for number in range(Settings().max_inputs)]


@given(st.lists(st.text(max_size=9), min_size=1), st.integers(1, 5), st.integers(1, 20))
def test_pieces_are_all_texts_in_order_and_no_piece_could_take_the_next_text(texts, most, most_bytes):
    pieces = cut(texts, most, most_bytes)
    assert [i for piece in pieces for i in piece] == list(range(len(texts)))
    sizes = [sum(len(texts[i].encode()) for i in piece) for piece in pieces]
    for place, (piece, size) in enumerate(zip(pieces, sizes, strict=True)):
        assert 1 <= len(piece) <= most
        assert size <= most_bytes or len(piece) == 1
        if place + 1 < len(pieces):
            following = len(texts[pieces[place + 1][0]].encode())
            assert len(piece) == most or size + following > most_bytes


def embed(client, texts=TEXTS, **fields):
    return client.post("/v1/embeddings", json={"model": "care-mini-document", "input": texts, **fields})


def sizes(memory):
    return [len(one[2]) for one in memory.asked]


def test_as_many_texts_as_openai_takes_keep_their_order(gateway, memory):
    assert len(TEXTS) == 2048
    answer = embed(gateway()).json()
    vectors = np.float32([one["embedding"] for one in answer["data"]])
    assert np.array_equal(vectors, memory.vectors("document", TEXTS))
    assert [one["index"] for one in answer["data"]] == list(range(2048))
    assert answer["usage"]["total_tokens"] == sum(map(len, TEXTS))
    assert sizes(memory) == [MAX_TEXTS] * 8
    refused = embed(gateway(), [*TEXTS, "x"])
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "too_many")


def test_long_texts_make_small_pieces(gateway, memory):
    assert embed(gateway(), ["痛" * 3_000] * 16).status_code == 200
    assert sizes(memory) == [7, 7, 2]
    assert 7 * 9_000 <= MAX_BYTES < 8 * 9_000


def test_many_queries_of_a_search_keep_their_order(gateway, memory):
    answer = gateway().post("/v1/search", json={"query": TEXTS[:600], "k": 3, "filter": "a = 1"}).json()
    assert [one["index"] for one in answer["data"]] == list(range(600))
    assert all(len(one["hits"]) == 2 for one in answer["data"])
    assert [len(one[1]) for one in memory.asked] == [len(one[4]) for one in memory.asked] == [256, 256, 88]
    assert answer["usage"]["total_tokens"] == sum(map(len, TEXTS[:600]))


@pytest.fixture
def between(memory, monkeypatch):
    """Return a function that does something when the server has been asked some times, or every time."""

    def between_(times, act):
        encode = memory.encode

        async def encode_and_act(*asked):
            found = await encode(*asked)
            if times in (None, len(memory.asked)):
                await act()
            return found

        monkeypatch.setattr(memory, "encode", encode_and_act)

    return between_


@pytest.mark.parametrize(
    ("fault", "status"), [("UNAVAILABLE", 503), ("INVALID_ARGUMENT", 400), ("INTERNAL", 502)]
)
def test_a_piece_that_fails_fails_the_request_and_the_others_are_not_sent(
    gateway, memory, between, fault, status
):
    async def fail():
        raise ServerError(fault, "TEXT 3 has 1,000,000 bytes")

    between(2, fail)
    answer = embed(gateway())
    assert answer.status_code == status
    assert sizes(memory) == [256, 256]
    if status == 400:
        assert "TEXT 259 has" in answer.json()["error"]["message"], "the position in the request"


def test_a_model_that_changes_between_two_pieces_mixes_no_vectors(gateway, memory, between, monkeypatch):
    describe = memory.describe

    async def change():
        async def changed(role, *, refresh=False):
            served = await describe(role)
            served.revision = "another"
            return served

        monkeypatch.setattr(memory, "describe", changed)

    between(3, change)
    client = gateway()
    answer = embed(client)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_changed")
    assert answer.headers["retry-after"] == "1"
    assert embed(client).status_code == 200


def test_the_deadline_is_each_piece_s_own(gateway, memory, between):
    client = gateway(timeout=1.0)

    async def slow():
        await asyncio.sleep(0.15)  # eight of them are longer than the deadline

    between(None, slow)
    assert embed(client).status_code == 200

    async def stuck():
        await asyncio.sleep(60)

    between(10, stuck)
    answer = embed(client)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "server_too_slow")
    assert len(memory.asked) == 10


def test_who_hangs_up_leaves_no_piece_to_be_sent_and_the_place_is_free(served, memory, between):
    gateway = served(concurrency=1)
    held = []

    async def hold():
        held.append("begun")
        try:
            await asyncio.sleep(60)
        finally:
            held.append("ended")

    between(2, hold)
    fields = {"model": "care-mini-document", "input": TEXTS}
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(f"{gateway.address}/v1/embeddings", json=fields, timeout=1)
    end = time.monotonic() + 10
    while len(held) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    assert held == ["begun", "ended"]
    fields["input"] = "头痛"
    while (answer := httpx2.post(f"{gateway.address}/v1/embeddings", json=fields)).status_code == 503:
        assert time.monotonic() < end
    assert answer.status_code == 200
    assert sizes(memory) == [256, 256, 1]
