import asyncio
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from care_accel import CareError, DualEncoder
from care_accel.encoding import AsyncServerClient, ServerClient

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
# The vectors of the small server are known: length, first character, sum of characters.
TEXTS = ["头" * (1 + i % 5) + str(i) for i in range(23)]


def expected(texts):
    return [[len(t), ord(t[0]), sum(map(ord, t)) % 1000] for t in texts]


def test_many_texts_are_shared_out_and_come_back_in_their_order(client, service):
    encoded = client.encode("document", TEXTS)
    assert encoded.vectors.tolist() == expected(TEXTS)
    assert encoded.vectors.dtype == np.float32
    assert encoded.vectors.flags.writeable
    assert encoded.tokens.tolist() == [len(text) for text in TEXTS]
    sizes = [len(one["inputs"]["TEXT"]) for one in service.asked]
    assert sorted(sizes) == [3, 4, 4, 4, 4, 4]
    assert {one["model"] for one in service.asked} == {"document_encoder"}


def test_alike_lengths_share_a_request(client, service):
    client.encode("query", TEXTS)
    spread = [
        max(sizes) - min(sizes) for sizes in ([len(t) for t in r["inputs"]["TEXT"]] for r in service.asked)
    ]
    assert max(spread) <= 2


def test_several_requests_are_in_flight_and_no_more_than_allowed(connect, address, service):
    service.slow = 0.1
    client = connect(address, in_flight=3)
    client.encode("query", TEXTS)
    assert service.most_busy == 3


def test_a_batch_size_makes_smaller_requests_and_never_larger_ones(client, service):
    client.encode("query", TEXTS[:6], batch_size=2)
    assert [len(one["inputs"]["TEXT"]) for one in service.asked] == [2, 2, 2]
    client.encode("query", TEXTS[:6], batch_size=100)
    assert max(len(one["inputs"]["TEXT"]) for one in service.asked[3:]) == 4


def test_only_what_is_not_the_default_is_sent(client, service):
    client.encode("query", ["头痛"])
    client.search(["头痛"])
    client.encode("query", ["头痛", "发热"], "sts")
    assert [sorted(one["inputs"]) for one in service.asked] == [
        ["TEXT"],
        ["K", "TEXT"],
        ["TASK", "TEXT"],
    ]
    assert service.asked[2]["inputs"]["TASK"] == ["sts", "sts"]


def test_half_a_surrogate_pair_is_sent_as_the_replacement_character(client, service):
    client.encode("query", ["头\ud800"])
    assert service.asked[0]["inputs"]["TEXT"] == ["头\ufffd"]


def test_no_texts_ask_for_nothing(client, service):
    assert client.encode("query", []).vectors.shape == (0, 3)
    assert client.search([], k=5).ids.shape == (0, 5)
    assert service.asked == []


def test_hits_come_with_documents_tokens_and_times(client, service):
    found = client.search(["头痛", "发热三天"], k=3)
    assert found.ids.tolist() == [[0, 1, -1]] * 2
    assert found.scores.tolist() == [[2, 2, 2], [4, 4, 4]]
    assert found.documents == [[{"of": "头痛"}] * 3, [{"of": "发热三天"}] * 3]
    assert found.tokens.tolist() == [2, 4]
    assert found.times.shape == (2, 3)
    assert service.asked[0]["inputs"]["K"] == [3, 3]


def test_hits_of_many_queries_stay_with_their_query(client):
    found = client.search(TEXTS, k=2)
    assert [row[0] for row in found.documents] == [{"of": text} for text in TEXTS]
    assert found.scores[:, 0].tolist() == [len(text) for text in TEXTS]


def test_an_unavailable_server_is_asked_again(client, service):
    service.errors = [UNAVAILABLE] * 3
    assert client.encode("query", ["头痛"]).vectors.tolist() == expected(["头痛"])
    assert len(service.asked) == 4


def test_a_server_that_answered_before_is_waited_for_until_the_deadline(connect, address, service):
    client = connect(address, retries=0, timeout=20.0)
    client.describe("query")
    service.errors = [(UNAVAILABLE, "Socket closed")] * 4
    assert client.encode("query", ["头痛"]).vectors.tolist() == expected(["头痛"])
    assert len(service.asked) == 5


def test_retries_end(connect, address, service):
    service.errors = [(UNAVAILABLE, "Exceeds maximum queue size")] * 9
    client = connect(address, retries=1)
    with pytest.raises(
        CareError, match=r"query_encoder is overloaded \(Exceeds maximum queue size\)"
    ) as error:
        client.encode("query", ["头痛"])
    assert error.value.status == "UNAVAILABLE"
    assert len(service.asked) == 2


@pytest.mark.parametrize("status", ["INTERNAL", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"])
def test_nothing_else_is_asked_again(client, service, status):
    service.errors = [(grpc.StatusCode[status], "so it is\nat line 7")]
    with pytest.raises(CareError, match="so it is at line 7") as error:
        client.encode("query", ["头痛"])
    assert error.value.status == status
    assert len(service.asked) == 1
    assert "\n" not in str(error.value)


def test_every_request_tells_the_server_its_deadline(connect, address, service):
    client = connect(address, timeout=7.0)
    service.errors = [UNAVAILABLE]
    client.encode("query", ["头痛"])
    first, second = service.asked
    assert 6_000_000 < first["timeout"] <= 7_000_000
    assert second["timeout"] < first["timeout"] - 40_000  # the pause has passed
    for one in service.asked:
        assert one["left"] == pytest.approx(one["timeout"] / 1e6, abs=0.5)


def test_a_slow_answer_is_given_up_at_the_deadline(connect, address, service):
    client = connect(address, timeout=0.3)
    client.describe("query")
    service.slow = 30
    started = time.monotonic()
    with pytest.raises(CareError, match=r"query_encoder did not answer within 0\.3 s"):
        client.encode("query", ["头痛"])
    assert time.monotonic() - started < 5
    assert len(service.asked) == 1


def test_no_retry_begins_after_the_deadline(connect, address, service):
    client = connect(address, timeout=0.35, retries=1000)
    client.describe("query")
    service.errors = [UNAVAILABLE] * 1000
    with pytest.raises(CareError):
        client.encode("query", ["头痛"])
    assert len(service.asked) < 6


def test_after_a_failure_the_rest_of_a_list_is_not_asked_for(connect, address, service):
    client = connect(address, in_flight=2)
    service.slow = 0.02
    service.errors = [(grpc.StatusCode.INTERNAL, "broken")]
    with pytest.raises(CareError, match="broken"):
        client.encode("query", ["头痛"] * 400)
    assert len(service.asked) < 50


def test_a_refused_text_is_named_by_its_place_in_the_whole_list(connect, address, service):
    client = connect(address, in_flight=1)  # requests in their order, the shortest text alone in the last
    service.errors = [None] * 5 + [(grpc.StatusCode.INVALID_ARGUMENT, "TEXT 0 is empty; send a question")]
    with pytest.raises(CareError, match="query_encoder: TEXT 1 is empty; send a question"):
        client.encode("query", ["长" * 9, "", *(text + "头" for text in TEXTS[:19])])


def change(name, values):
    return lambda outputs: {**outputs, name: values(outputs[name]) if callable(values) else values}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (change("EMBEDDING", lambda v: v[:, :2]), r"EMBEDDING of float32 \[1, 2\], not float32 \[1, 3\]"),
        (change("EMBEDDING", lambda v: v[:0]), r"EMBEDDING of float32 \[0, 3\]"),
        (change("TOKENS", lambda v: v.astype(np.int64)), r"TOKENS of int64 \[1, 1\], not int32"),
        (lambda outputs: {k: v for k, v in outputs.items() if k != "TIMES"}, "no output TIMES"),
    ],
)
def test_an_answer_of_another_shape_is_refused(client, service, answer, words):
    service.change = answer
    with pytest.raises(CareError, match=words):
        client.encode("query", ["头痛"])


def test_an_answer_with_too_few_bytes_is_refused(client, service):
    class Short(np.ndarray):
        def tobytes(self, *_):
            return b"1234"

    service.change = change("EMBEDDING", lambda v: v.view(Short))
    with pytest.raises(CareError, match="output EMBEDDING that cannot be read"):
        client.encode("query", ["头痛"])


def test_a_document_that_is_no_json_is_refused(client, service):
    service.change = change("DOCUMENTS", np.array([[b"{"]], np.object_))
    with pytest.raises(CareError, match="not a JSON value"):
        client.search(["头痛"], k=1)


def test_an_encoder_is_described_once_and_anew_when_asked(client, service):
    served = client.describe("query")
    assert (served.name, served.role, served.width, served.max_batch_size) == ("care-test", "query", 3, 4)
    assert served.spec.pooling == "first"
    service.revision = "sha256:two"
    assert client.describe("query").revision == "sha256:one"
    assert client.describe("query", refresh=True).revision == "sha256:two"
    assert client.describe_search().max_k == 1000


@pytest.mark.parametrize("care", ["", "[]", "{}", '{"role": "query"}', "{"])
def test_a_model_of_somebody_else_is_refused(client, service, care):
    service.care = care
    with pytest.raises(CareError, match="query_encoder has no parameter 'care' that this release can read"):
        client.describe("query")
    with pytest.raises(CareError, match="search has no parameter 'care'"):
        client.describe_search()


def test_a_missing_model_is_named(client, service):
    service.missing = {"search", "query_encoder"}
    with pytest.raises(CareError, match="serves no model 'query_encoder'"):
        client.encode("query", ["头痛"])
    with pytest.raises(CareError, match="serves no model 'search'"):
        client.search(["头痛"])


def test_a_server_that_changes_its_model_within_a_list_gives_no_mixture(client, service):
    def another(outputs):
        service.revision = "sha256:two"
        return outputs

    service.change = another
    with pytest.raises(CareError, match=r"another query encoder .*sha256:one, now sha256:two"):
        client.encode("query", TEXTS)
    assert len(client.encode("query", TEXTS).vectors) == len(TEXTS)


def free_port():
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_where_no_server_is_the_line_says_how_to_start_one(connect, prefix):
    client = connect(f"{prefix}127.0.0.1:{free_port()}", retries=1)
    assert client.ready() is False
    with pytest.raises(CareError, match=r"127\.0\.0\.1:\d+: no inference server answers .* care-accel serve"):
        client.encode("query", ["头痛"])


def test_a_server_that_starts_anew_is_waited_for(connect, prefix, service, server_at):
    port = free_port()
    client = connect(f"{prefix}127.0.0.1:{port}", retries=0)
    first = server_at(service, port)
    client.encode("query", ["头痛"])
    first.stop(0).wait()
    again = threading.Timer(1.0, server_at, (service, port))
    again.start()
    assert client.encode("query", TEXTS).vectors.tolist() == expected(TEXTS)
    again.join()


def test_a_server_that_comes_up_meanwhile_is_reached(connect, prefix, service, server_at):
    port = free_port()
    client = connect(f"{prefix}127.0.0.1:{port}", retries=20)
    late = threading.Timer(0.5, server_at, (service, port))
    late.start()
    assert client.encode("query", ["头痛"]).vectors.tolist() == expected(["头痛"])
    late.join()
    assert client.ready() is True


@pytest.mark.parametrize("texts", ["头痛", [1], None, b"x", ["a", None]])
def test_what_is_no_list_of_texts_is_refused_before_anything_is_sent(client, service, texts):
    with pytest.raises(CareError, match="text"):
        client.encode("query", texts)
    assert service.asked == []


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_k_must_be_a_number_above_0(client, k):
    with pytest.raises(CareError, match="k is"):
        client.search(["头痛"], k=k)


def test_threads_share_a_client(address):
    with ServerClient(address) as client, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda text: client.encode("query", [text]).vectors[0].tolist(), TEXTS * 4))
    assert found == expected(TEXTS) * 4


def test_progress_is_told_after_every_request(address):
    told = []
    with ServerClient(address) as client:
        client.encode("query", TEXTS, progress=told.append)
    assert sum(told) == len(TEXTS)
    assert len(told) == 6


def test_coroutines_share_a_client(address):
    async def ask():
        async with AsyncServerClient(address) as client:
            found = await asyncio.gather(*(client.encode("query", [text]) for text in TEXTS))
        with pytest.raises(CareError, match="is closed; create a new client"):
            await client.encode("query", ["头痛"])
        return found

    assert [one.vectors[0].tolist() for one in asyncio.run(ask())] == expected(TEXTS)


@pytest.mark.parametrize("protocol", ["grpc"], indirect=True)  # over HTTP the server cannot know of it
def test_a_call_that_is_cancelled_is_cancelled_at_the_server(address, service):
    service.slow = 30

    async def ask():
        async with AsyncServerClient(address) as client:
            await client.describe("query")
            call = asyncio.create_task(client.encode("query", ["头痛"]))
            while not service.asked:
                await asyncio.sleep(0.01)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            return await asyncio.to_thread(service.cancelled.wait, 10)

    assert asyncio.run(ask())


def test_without_tritonclient_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tritonclient.utils", None)
    with pytest.raises(CareError, match=r"not installed: pip install 'care-accel\[server\]'"):
        DualEncoder.from_server("localhost:8001")


def test_a_client_needs_neither_torch_nor_transformers(address):
    code = (
        "import sys; from care_accel import DualEncoder\n"
        f"print(DualEncoder.from_server({address!r}).encode_query('ab').tolist())\n"
        "print(*{name.split('.')[0] for name in sys.modules} & {'torch', 'transformers', 'tokenizers'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str([2.0, 97.0, 195.0]), ""]


def test_a_client_that_nobody_closes_ends_quietly(address):
    code = (
        f"from care_accel import DualEncoder; m = DualEncoder.from_server({address!r}); m.encode_query('ab')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_a_closed_client_says_so(address):
    with ServerClient(address) as client:
        client.describe("query")
    client.close()
    with pytest.raises(CareError, match="is closed"):
        client.encode("query", ["头痛"])
