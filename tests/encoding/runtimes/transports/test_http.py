import asyncio
import json
import multiprocessing
import random
import socketserver
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from care_accel import CareError
from care_accel.encoding import AsyncServerClient, ServerClient
from care_accel.encoding.runtimes.transports import Address
from care_accel.encoding.runtimes.transports.http import HttpTransport
from care_accel.encoding.runtimes.transports.http_messages import Messages

over_http = pytest.mark.parametrize("protocol", ["http"], indirect=True)


def vectors(client, text):
    return client.encode("query", [text]).vectors.tolist()


def test_without_httptools_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "httptools", None)
    with pytest.raises(CareError, match=r"httptools is not installed: .*\(or httptools\)"):
        ServerClient("http://localhost:8000")
    ServerClient("localhost:8001").close()


@over_http
def test_a_connection_is_used_again_and_threads_have_their_own(address, service):
    with ServerClient(address) as client:
        client.encode("query", ["头痛"])
        client.encode("query", ["发热"])
        assert len(client._transport.pool) == 1
        service.slow = 0.2
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda text: vectors(client, text), ["a", "b", "c"]))
        assert len(client._transport.pool) == 3


@over_http
def test_a_connection_that_the_server_has_closed_is_replaced_without_a_retry(connect, address, service):
    client = connect(address, retries=0)
    before = vectors(client, "头痛")
    (client if isinstance(client, ServerClient) else client.client)._reached = False  # so that no retry helps
    service.front.hang_up()
    assert vectors(client, "头痛") == before
    assert len(service.asked) == 2


@over_http
def test_answers_of_calls_that_were_given_up_reach_nobody(address, service):
    """Cancelled or late, a call takes its connection with it."""
    service.slow = 0.02
    chance = random.Random(7)

    async def ask(client, text):
        call = asyncio.ensure_future(client.encode("query", [text]))
        if chance.random() < 0.5:
            await asyncio.sleep(chance.uniform(0, 0.03))
            call.cancel()
        try:
            return text, (await call).vectors[0, 0]
        except asyncio.CancelledError:
            return None

    async def main():
        async with AsyncServerClient(address) as client:
            await client.describe("query")
            found = await asyncio.gather(*(ask(client, "头" * n) for n in range(1, 80)))
        return [one for one in found if one]

    found = asyncio.run(main())
    assert 10 < len(found) < 79
    assert all(len(text) == length for text, length in found)


@over_http
def test_a_late_answer_is_not_read_by_the_next_call(address, service):
    with ServerClient(address, timeout=0.15) as client:
        client.describe("query")
        service.slow = 0.4
        with pytest.raises(CareError, match=r"did not answer within 0\.15 s"):
            vectors(client, "头痛")
        service.slow = 0.0
        assert vectors(client, "发热三天")[0][0] == 4


def _in_child(client, results):
    results.put([vectors(client, "头" * n)[0][0] for n in range(1, 30)])


@over_http
def test_a_process_that_is_forked_has_connections_of_its_own(address, service):
    fork = multiprocessing.get_context("fork")
    with ServerClient(address) as client:
        vectors(client, "头")
        results = fork.Queue()
        child = fork.Process(target=_in_child, args=(client, results))
        child.start()
        own = [vectors(client, "发" * n)[0][0] for n in range(1, 30)]
        assert results.get(timeout=30) == own == list(range(1, 30))
        child.join()


@pytest.fixture
def answering():
    """Return a function that starts a server with one answer to everything, and returns its address."""
    started = []

    def start(answer):
        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                self.request.recv(1 << 16)
                for part in [answer] if isinstance(answer, bytes) else answer:
                    self.request.sendall(part)
                    time.sleep(0.01)

        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        started.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


CONFIG = b'{"name":"query_encoder","max_batch_size":4,"parameters":{"care":{"string_value":"x"}}}'


@pytest.mark.parametrize(
    "parts",
    [
        [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(CONFIG), CONFIG],
        [bytes([byte]) for byte in b"HTTP/1.1 200 OK\r\ncontent-length:%d\r\n\r\n%s" % (len(CONFIG), CONFIG)],
        [
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n" + CONFIG[:5],
            b"\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(CONFIG) - 5, CONFIG[5:]),
        ],
        [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(CONFIG), CONFIG],
    ],
)
def test_an_answer_is_read_in_whatever_pieces_a_proxy_sends_it(answering, parts):
    transport = HttpTransport(Address.read(answering(parts)))
    found = transport.configuration("query_encoder", 5.0)
    assert (found.name, found.max_batch_size, dict(found.parameters)) == ("query_encoder", 4, {"care": "x"})
    transport.close()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"\0\0\x12\x04\0\0\0\0\0", "does not speak HTTP/1.1 .*; give the address of its HTTP port"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "not as an inference server"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "not as an inference server"),
        (b"HTTP/1.1 403 No\r\nContent-Length: 5\r\n\r\nStop!", "PERMISSION_DENIED: HTTP status 403: Stop!"),
        (
            b'HTTP/1.1 404 No\r\nContent-Length: 18\r\n\r\n{"error": {"a":1}}',
            r"serves no model .*HTTP status 404",
        ),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", "HTTP status 302: no reason given"),
        (b"", "no inference server answers .*closed the connection"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhalf",
            "no inference server answers .*closed the connection",
        ),
    ],
)
def test_what_is_no_answer_of_an_inference_server_is_one_clear_line(connect, answering, answer, words):
    client = connect(answering(answer), retries=0)
    with pytest.raises(CareError, match=words) as refused:
        client.encode("query", ["头痛"])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "head",
    [
        b"{}",
        b"{",
        b'{"outputs":[{"name":"EMBEDDING"}]}',
        b'{"outputs":[{"name":"A","datatype":"FP32","shape":[1]}]}',
    ],
)
def test_an_answer_without_what_describes_its_tensors_is_refused(answering, head):
    answer = b"HTTP/1.1 200 OK\r\nInference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n%s1234" % (
        len(head),
        len(head) + 4,
        head,
    )
    transport = HttpTransport(Address.read(answering(answer)))
    with pytest.raises(Exception, match="not as an inference server"):
        transport.infer("search", {"TEXT": np.array([[b"a"]], np.object_)}, 5.0)


@pytest.mark.parametrize("parameters", [{}, {"partial": True}])
def test_a_request_has_the_parameters_that_it_is_given(parameters):
    sent = Messages(Address.read("http://localhost:8000")).infer(
        "search", {"TEXT": np.array([[b"a"]], np.object_)}, 5.0, parameters
    )
    start, _, body = sent.partition(b"\r\n\r\n")
    head = json.loads(body[: int(start.partition(b"Inference-Header-Content-Length: ")[2].split()[0])])
    assert head["parameters"] == {"binary_data_output": True, "timeout": 5_000_000, **parameters}
