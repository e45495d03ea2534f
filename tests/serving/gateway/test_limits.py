"""Who is let in, how much, how often; what is written down about it."""

import asyncio
import json
import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from starlette.testclient import TestClient

from care_accel.serving.gateway import Settings
from care_accel.serving.gateway.admission import _name, _network
from care_accel.serving.gateway.app import create_app
from care_accel.serving.gateway.rate_limit import RateLimiter

TOKEN, OTHER = "0123456789abcdef-first", "0123456789abcdef-other"
QUERY = {"query": "我头痛三天了"}


def code(answer):
    return answer.status_code, answer.json()["error"]["code"]


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/search"),
        ("POST", "/v1/embeddings"),
        ("GET", "/v1/models"),
        ("GET", "/metrics"),
        ("GET", "/v1/unknown"),
    ],
)
@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer \xe9"]
)
def test_without_the_right_token_nothing_is_given(gateway, memory, method, path, header):
    client = gateway(tokens=(TOKEN,))
    headers = {} if header is None else {"authorization": header.encode("latin-1")}
    answer = client.request(method, path, headers=headers)
    assert code(answer) == (401, "invalid_token")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert memory.asked == []


def test_any_of_several_tokens_opens_and_the_scheme_has_no_case(gateway):
    client = gateway(tokens=(OTHER, TOKEN))
    for header in (f"Bearer {OTHER}", f"bearer {TOKEN}", f"BEARER  {TOKEN}"):
        assert client.post("/v1/search", json=QUERY, headers={"authorization": header}).status_code == 200


def test_the_page_and_the_probes_need_no_token(gateway):
    client = gateway(tokens=(TOKEN,))
    for path in (
        "/",
        "/app.js",
        "/filters.js",
        "/words.js",
        "/style.css",
        "/icon.svg",
        "/healthz",
        "/readyz",
        "/page/settings",
        "/docs",
        "/docs.css",
        "/openapi.json",
    ):
        assert client.get(path).status_code == 200
    assert client.get("/page/settings").json()["token_required"] is True


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "127.0.0.1.evil.example:80"])
def test_a_name_that_is_not_the_gateway_s_own_is_refused(gateway, memory, host):
    for path in ("/v1/models", "/", "/metrics"):
        assert code(gateway().get(path, headers={"host": host})) == (400, "unknown_host")
    assert gateway().get("/healthz", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]", "[::1]:8080", "localhost."]
)
def test_the_gateway_s_own_names_are_taken_with_any_port(gateway, host):
    assert gateway().get("/v1/models", headers={"host": host}).status_code == 200


def test_names_are_read_without_port_and_brackets():
    assert [_name(one) for one in ("a:1", "A.", "[::1]:80", "a")] == ["a", "a", "::1", "a"]


def test_a_page_of_another_origin_can_neither_ask_nor_read(gateway):
    headers = {"origin": "https://evil.example"}
    client = gateway()
    preflight = client.options("/v1/search", headers=headers | {"access-control-request-method": "POST"})
    assert preflight.status_code == 405
    answer = client.get("/v1/models", headers=headers)
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_every_answer_forbids_to_guess_types_to_frame_and_to_load_from_elsewhere(gateway):
    client = gateway()
    for answer in (client.get("/"), client.get("/v1/models"), client.get("/nothing"), client.get("/healthz")):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
    assert client.get("/v1/models").headers["cache-control"] == "no-store"


def test_a_body_beyond_the_limit_is_refused_with_a_length_and_without(gateway, memory):
    client = gateway(max_body=1000)
    long = json.dumps({"query": "痛" * 500}).encode()
    headers = {"content-type": "application/json"}
    assert code(client.post("/v1/search", content=long, headers=headers)) == (413, "body_too_long")

    def pieces():
        for start in range(0, len(long), 100):
            yield long[start : start + 100]

    assert code(client.post("/v1/search", content=pieces(), headers=headers)) == (413, "body_too_long")
    assert memory.asked == []
    assert client.post("/v1/search", json=QUERY).status_code == 200


def talk(address, *sent, pause=0.0):
    """Send bytes over a plain socket and return all that comes back."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as plain:
        try:
            for piece in sent:
                plain.sendall(piece)
                time.sleep(pause)
        except OSError:
            pass  # it was closed on us
        received = b""
        while piece := plain.recv(65536):
            received += piece
        return received


HEAD = (
    b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
)


def test_an_endless_chunked_body_is_cut_off_over_a_real_socket(served, memory):
    address = served(max_body=1000).address
    chunk = b"100\r\n" + b"x" * 256 + b"\r\n"
    answer = talk(address, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", chunk * 20)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"body_too_long" in answer


def test_a_length_beyond_all_measure_is_refused_before_the_body_comes(served):
    answer = talk(served(max_body=1000).address, HEAD + b"Content-Length: 99999999999\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")


def test_a_body_that_does_not_come_is_not_waited_for(served):
    answer = talk(served(body_timeout=0.1).address, HEAD + b"Content-Length: 10\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 408")


def test_a_caller_beyond_the_rate_is_told_when_to_come_back(gateway):
    clock = Clock()
    client = gateway(rate=0.5, burst=2, limiter=RateLimiter(0.5, 2, clock))
    assert [client.post("/v1/search", json=QUERY).status_code for _ in range(3)] == [200, 200, 429]
    answer = client.get("/v1/models")
    assert code(answer) == (429, "rate_limit_exceeded")
    assert answer.json()["error"]["type"] == "rate_limit_error"
    assert answer.headers["retry-after"] == "2"
    assert client.get("/metrics").status_code == client.get("/").status_code == 200
    clock.now = 2.0
    assert client.get("/v1/models").status_code == 200


def test_each_token_has_a_bucket_and_guessing_one_of_its_own(gateway):
    client = gateway(tokens=(TOKEN, OTHER), limiter=RateLimiter(1.0, 2, Clock()))

    def status(token):
        return client.get("/v1/models", headers={"authorization": f"Bearer {token}"}).status_code

    assert [status("wrong") for _ in range(3)] == [401, 401, 429]
    assert [status(TOKEN) for _ in range(3)] == [200, 200, 429]
    assert [status(OTHER) for _ in range(3)] == [200, 200, 429]


def test_buckets_fill_up_to_their_size_and_are_forgotten_oldest_first(monkeypatch):
    monkeypatch.setattr("care_accel.serving.gateway.rate_limit._MAX_CALLERS", 2)
    clock = Clock()
    limit = RateLimiter(2.0, 3, clock)
    assert [limit.acquire("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    clock.now = 0.25
    assert limit.acquire("a") == 0.25
    clock.now = 100.0
    assert [limit.acquire("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    for caller in "bc":
        assert limit.acquire(caller) == 0.0
    assert limit.acquire("a") == 0.0
    assert len(limit._buckets) == 2


def test_addresses_of_one_ipv6_network_share_a_bucket():
    assert _network("2001:db8::1") == _network("2001:db8::ffff") != _network("2001:db8:0:1::1")
    assert _network("::ffff:192.0.2.1") == _network("192.0.2.1")
    assert _network("testclient") == "testclient"


def test_more_requests_than_places_are_refused_at_once_and_the_others_finish(served, memory):
    gateway = served(concurrency=2)
    memory.hold = asyncio.Event()

    def post():
        return httpx2.post(f"{gateway.address}/v1/search", json=QUERY, timeout=20)

    with ThreadPoolExecutor(2) as pool:
        held = [pool.submit(post) for _ in range(2)]
        deadline = time.monotonic() + 10
        while len(memory.asked) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        refused = post()
        assert code(refused) == (503, "overloaded")
        assert refused.headers["retry-after"] == "1"
        metrics = httpx2.get(f"{gateway.address}/metrics").text
        assert "care_gateway_requests_in_flight 2.0" in metrics
        assert 'care_gateway_rejected_total{reason="concurrency"} 1.0' in metrics
        assert httpx2.get(f"{gateway.address}/healthz").status_code == 200
        gateway.loop.call_soon_threadsafe(memory.hold.set)
        assert [one.result().status_code for one in held] == [200, 200]
    assert post().status_code == 200


def test_request_ids_are_given_or_kept_if_they_are_well_formed(gateway, caplog):
    client = gateway()
    with caplog.at_level(logging.INFO, "care_accel.serving.gateway"):
        assert (
            client.get("/healthz", headers={"x-request-id": "trace-7.a_B"}).headers["x-request-id"]
            == "trace-7.a_B"
        )
        for bad in ("a b", "x" * 65, "", "我", 'a"b'):
            given = client.get("/healthz", headers={"x-request-id": bad.encode()}).headers["x-request-id"]
            assert len(given) == 32
            assert given.isalnum()
        failed = client.get("/nothing")
    assert "id=trace-7.a_B GET /healthz 200" in caplog.text
    assert f"id={failed.headers['x-request-id']} GET other 404" in caplog.text


def test_no_words_of_a_request_are_logged(gateway, memory, caplog, as_lines, monkeypatch):
    client = gateway()
    secret = "艾滋病检测"
    caplog.set_level(logging.DEBUG, "care_accel")
    client.post("/v1/search", json={"query": secret})
    client.post(f"/v1/search?q={secret}", json={"query": secret, secret: 1})
    client.post("/v1/embeddings", json={"input": [secret, secret * 40_000], "model": secret})
    client.post(
        "/v1/search", content=f'{{"query": "{secret}'.encode(), headers={"content-type": "application/json"}
    )
    client.get(f"/{secret}")
    client.get(f"/v1/models/{secret}")
    client.request("SEARCH", f"/v1/search/{secret}")
    memory.fault = RuntimeError(f"cannot encode {secret}")
    assert code(client.post("/v1/search", json={"query": secret})) == (500, "internal_error")
    lines = as_lines(r for r in caplog.records if r.name.startswith("care_accel"))
    assert "RuntimeError" in lines
    assert secret not in lines
    assert "%E8%89" not in lines
    assert secret not in client.get("/metrics").text


def test_words_are_logged_on_request_and_cannot_forge_a_line(gateway, caplog):
    caplog.set_level(logging.INFO, "care_accel.serving.gateway")
    gateway(log_texts=True).post("/v1/search", json={"query": "头痛\nid=forged"})
    (line,) = [r.getMessage() for r in caplog.records if "words=" in r.getMessage()]
    assert json.loads(line.partition("words=")[2]) == ["头痛\nid=forged"]
    assert "\n" not in line


def test_metrics_count_requests_seconds_texts_and_refusals(gateway):
    client = gateway(max_inputs=2)
    client.post("/v1/search", json={"query": ["头痛", "发热"]})
    client.post("/v1/search", json={"query": ["a", "b", "c"]})
    client.get("/v1/models", headers={"host": "evil.example"})
    client.get("/v1/models/care-mini")
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    for line in (
        'care_gateway_requests_total{method="POST",route="/v1/search",status="200"} 1.0',
        'care_gateway_requests_total{method="POST",route="/v1/search",status="400"} 1.0',
        'care_gateway_requests_total{method="GET",route="/v1/models/{model}",status="200"} 1.0',
        'care_gateway_request_seconds_count{route="/v1/search"} 2.0',
        'care_gateway_texts_total{route="/v1/search"} 2.0',
        'care_gateway_tokens_total{route="/v1/search"} 4.0',
        'care_gateway_rejected_total{reason="host"} 1.0',
        "care_gateway_requests_in_flight 0.0",
    ):
        assert line in answer.text


def test_readiness_follows_the_inference_server_and_health_does_not(gateway, memory, monkeypatch):
    monkeypatch.setattr("care_accel.serving.gateway.upstream._READY_TTL_S", -1.0)
    client = gateway()
    assert client.get("/readyz").json() == {"status": "ready"}
    memory.alive = False
    assert code(client.get("/readyz")) == (503, "not_ready")
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/page/settings").json()["ready"] is False


def test_a_gateway_that_ends_closes_its_connection_to_the_server(memory):
    with TestClient(create_app(Settings(), memory), base_url="http://localhost") as client:
        assert client.get("/healthz").status_code == 200
        assert not memory.closed
    assert memory.closed
