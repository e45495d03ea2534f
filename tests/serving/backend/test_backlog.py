"""The watch over waiting requests: what it reads, and when it has requests refused."""

import http.server
import threading
import time
from types import SimpleNamespace

import pytest

from care_accel.encoding.runtimes.attempts import Attempts, ServerError
from care_accel.serving.backend.backlog import Backlog, metrics_address, read_gauge

PAGE = """# HELP nv_inference_pending_request_count Instantaneous number of pending requests awaiting execution per-model
nv_inference_pending_request_count{{model="document_encoder",version="1"}} 7
nv_inference_pending_request_count{{model="query_encoder",version="1"}} {}
"""


@pytest.fixture
def page():
    """Return a metrics page whose number can be set, and where it is."""

    class Page(http.server.BaseHTTPRequestHandler):
        waiting = 0

        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(PAGE.format(Page.waiting).encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as serving:
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        Page.address = serving.server_address
        yield Page
        serving.shutdown()
        thread.join()


def eventually(found, seconds=10.0):
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end
        time.sleep(0.005)
    return True


def test_requests_are_refused_until_no_more_wait_than_may(page):
    page.waiting = 1000
    backlog = Backlog("query_encoder", 512, 2.0, 64, page.address)
    said = []
    eventually(lambda: said.append(backlog.overload_reason(64)) or said[-1])
    assert "limit is 512" in said[-1]
    page.waiting = 512
    eventually(lambda: backlog.overload_reason(64) is None)


def test_clients_take_a_refusal_for_what_it_is_and_do_not_ask_until_their_deadline(page):
    page.waiting = 1000
    backlog = Backlog("query_encoder", 512, 2.0, 64, page.address)
    refusals = []
    eventually(lambda: refusals.append(backlog.overload_reason(64)) or refusals[-1])
    said = SimpleNamespace(status=lambda: "StatusCode.UNAVAILABLE", message=lambda: refusals[-1])
    attempts = Attempts("localhost:8001", "query_encoder", timeout=30.0, retries=1, reached=True)
    assert attempts.pause(said) > 0
    with pytest.raises(ServerError, match=r"query_encoder is overloaded .*the limit is 512"):
        attempts.pause(said)


def test_a_few_requests_are_no_reason_to_look(page):
    page.waiting = 1000
    backlog = Backlog("query_encoder", 512, 2.0, 64, page.address)
    for _ in range(20):
        assert backlog.overload_reason(31) is None
        time.sleep(0.005)


def test_a_batch_that_took_long_is_one(page):
    page.waiting = 1000
    backlog = Backlog("query_encoder", 512, 200.0, 64, page.address)
    backlog.record(4, 0.5)
    for _ in range(2):  # and nobody looks while it runs
        time.sleep(0.25)
        assert "1,000 requests wait" in backlog.overload_reason(4)


def test_what_was_seen_long_ago_refuses_nobody(page):
    page.waiting = 10**6
    backlog = Backlog("query_encoder", 512, 2.0, 64, page.address)
    eventually(lambda: backlog.overload_reason(64))
    page.waiting = 0
    time.sleep(0.3)
    assert backlog.overload_reason(1) is None


def test_a_slow_model_has_a_lower_limit(page):
    backlog = Backlog("query_encoder", 512, 2.0, 64, page.address)
    assert backlog.limit == 512
    backlog.record(10, 0.2)
    assert backlog.limit == 100
    for _ in range(100):
        backlog.record(1, 100.0)
    assert backlog.limit == 1


def test_a_server_without_metrics_serves_all_the_same():
    backlog = Backlog("query_encoder", 1, 2.0, 1, ("127.0.0.1", 1))
    for _ in range(5):
        assert backlog.overload_reason(64) is None
        time.sleep(0.03)


def test_the_gauge_of_the_model_is_read():
    assert read_gauge(PAGE.format(3), 'model="query_encoder"') == 3
    assert read_gauge("", 'model="query_encoder"') == 0


@pytest.mark.parametrize(
    ("arguments", "address"),
    [
        ([], ("127.0.0.1", 8002)),
        (["tritonserver", "--metrics-port=9", "--metrics-address=10.0.0.1"], ("10.0.0.1", 9)),
        (["tritonserver", "--metrics-port", "9", "--http-address", "0.0.0.0"], ("127.0.0.1", 9)),
    ],
)
def test_the_metrics_page_is_where_the_server_was_told(arguments, address):
    assert metrics_address(arguments) == address
