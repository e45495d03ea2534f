"""Places for requests in work: taken when a body is there, given back whatever happens."""

import socket
import time
from contextlib import ExitStack

import httpx2
import pytest

from care_accel.serving.gateway import Settings
from care_accel.serving.gateway.errors import ApiError
from care_accel.serving.gateway.metrics import Metrics
from care_accel.serving.gateway.places import Places

HEAD = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"


def test_who_sends_slowly_takes_no_place_from_others(served, memory):
    address = served(concurrency=1).address
    host, port = address.removeprefix("http://").split(":")
    with ExitStack() as opened:
        slow = [opened.enter_context(socket.create_connection((host, int(port)), timeout=20)) for _ in "123"]
        for one in slow:
            one.sendall(HEAD + b'{"query"')
        end = time.monotonic() + 10  # until the gateway reads their bodies
        while "care_gateway_bodies_arriving 3.0" not in httpx2.get(f"{address}/metrics").text:
            assert time.monotonic() < end
        assert httpx2.post(f"{address}/v1/search", json={"query": "头痛"}).status_code == 200
        slow[0].sendall(b': "a"}'.ljust(92))
        assert slow[0].recv(100).startswith(b"HTTP/1.1 200")
    assert [one[1] for one in memory.asked] == [["头痛"], ["a"]]


def test_a_place_is_given_back_after_an_error(gateway, memory):
    client = gateway(concurrency=1)
    memory.fault = RuntimeError()
    for path in ("/v1/search", "/v1/rerank"):
        answer = client.post(
            path, json={"query": "头痛", **({"documents": ["a"]} if "rerank" in path else {})}
        )
        assert answer.status_code == 500
    memory.fault = None
    assert client.post("/v1/search", json={"query": "头痛"}).status_code == 200
    assert "care_gateway_requests_in_flight 0.0" in client.get("/metrics").text


def test_bodies_that_arrive_are_limited_by_their_bytes_together():
    places = Places(Settings(max_body=10), Metrics())
    with ExitStack() as arriving:
        bodies = [arriving.enter_context(places.arriving()) for _ in range(40)]
        for body in bodies:
            places.grow(body, b"1234")
        with pytest.raises(ApiError) as error:
            places.grow(bodies[0], b"5")
        assert (error.value.status, error.value.code, error.value.headers) == (
            503,
            "overloaded",
            {"Retry-After": "1"},
        )
        assert bodies[0] == b"1234"
    with places.arriving() as body:
        places.grow(body, b"x" * 160)


def test_too_many_large_bodies_are_refused_and_counted(gateway, monkeypatch):
    monkeypatch.setattr("care_accel.serving.gateway.places._FULL_BODIES", 0)
    client = gateway()
    answer = client.post("/v1/search", json={"query": "头痛"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
    assert 'care_gateway_rejected_total{reason="bodies"} 1.0' in client.get("/metrics").text


def test_more_than_the_places_are_refused():
    places = Places(Settings(concurrency=2), Metrics())
    with places.take(), places.take(), pytest.raises(ApiError, match="too many concurrent"), places.take():
        pass
    with places.take(), places.take():
        pass
