"""What goes wrong around a real server: killed processes, signals, floods, replaced indexes. No wrong answer is given."""

import asyncio
import itertools
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from care_accel import CareError, DualEncoder, ExactIndex, Retriever
from care_accel.serving import Server, write_repository
from care_accel.serving.repository.config import read_config, text_of

from .conftest import stub, tensors

grpc = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed (extra server)")

# They share a server, in the order in which they stand; the last one ends it.
pytestmark = pytest.mark.usefixtures("require_server")

DOCUMENTS = [f"第{i}号文档：{'头痛发热咳嗽腹泻失眠'[i % 10]}怎么办" for i in range(200)]
QUERIES = DOCUMENTS[:40]


class Load:
    """Asks for hits from several threads until it is stopped, and remembers every answer."""

    def __init__(self, server, expected, threads=4):
        self._server, self._expected, self._ended = server, expected, threading.Event()
        self.answers, self.wrong = [], []
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(threads)]

    def _ask(self, first):
        queries = list(self._expected)
        position = first
        with grpc.InferenceServerClient(self._server.grpc) as client:
            while not self._ended.is_set():
                query = queries[position % len(queries)]
                position += 1
                sent = time.monotonic()
                try:
                    answer = client.infer("search", tensors(grpc, [query]), client_timeout=30)
                except grpc.InferenceServerException as failure:
                    self.answers.append((sent, time.monotonic(), str(failure.status())))
                    time.sleep(0.05)  # as a client backs off
                    continue
                self.answers.append((sent, time.monotonic(), "OK"))
                if answer.as_numpy("IDS")[0].tolist() != self._expected[query]:
                    self.wrong.append(query)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, condition, seconds):
        end = time.monotonic() + seconds
        while not condition(self.answers) and time.monotonic() < end:
            time.sleep(0.05)
        assert condition(self.answers), self.answers[-5:]


@pytest.fixture(scope="module")
def index(tmp_path_factory, model):
    """Return the folder of an index of the documents."""
    folder = tmp_path_factory.mktemp("faults") / "index"
    Retriever.from_documents(model, DOCUMENTS).save(folder)
    return folder


@pytest.fixture(scope="module")
def server(index):
    """Return a server of that index, without the encoders."""
    repository = repository_of(index.parent / "repository", "scan", "search", index=index)
    with Server(repository) as running:
        yield running


def repository_of(folder, *models, **options):
    """Return a repository of some models of the embedded pair: the others take time to load."""
    write_repository(folder, **options)
    for place in folder.iterdir():
        if place.name not in models:
            shutil.rmtree(place)
    return folder


def expected_of(index, model):
    """Return the right ids of some queries."""
    retriever = Retriever.load(index, model)
    return {
        query: [hit.id for hit in hits]
        for query, hits in zip(QUERIES, retriever.search(QUERIES), strict=True)
    }


@pytest.mark.parametrize("name", ["search", "scan"])
def test_a_killed_model_process_comes_back_and_no_answer_is_wrong(server, index, model, name):
    with Load(server, expected_of(index, model)) as load:
        load.wait_for(lambda answers: len(answers) > 50, 60)
        killed = stub(server, name)
        os.kill(killed, signal.SIGKILL)
        at = time.monotonic()
        load.wait_for(
            lambda answers: any(sent > at + 1 and status == "OK" for sent, _, status in answers), 120
        )
        back = len(load.answers)
        load.wait_for(lambda answers: len(answers) > back + 50, 60)
        assert {status for _, _, status in load.answers[back:]} == {"OK"}
        assert stub(server, name) != killed
        failures = {status for _, _, status in load.answers} - {"OK"}
        # Until the server has ended, to be started anew, it has no such model.
        assert failures <= {"StatusCode.UNAVAILABLE", "StatusCode.INTERNAL", "StatusCode.NOT_FOUND"}
    assert load.wrong == []


def test_a_replaced_index_of_another_encoder_or_a_broken_one_is_refused_and_the_old_one_stays(
    server, index, model
):
    with grpc.InferenceServerClient(server.grpc) as client:
        first = client.infer("search", tensors(grpc, [DOCUMENTS[7]])).as_numpy("IDS")
        other = ExactIndex(model.width, encoder_revision="sha256:of-another")
        other.add(np.eye(model.width, dtype=np.float32))
        foreign = Retriever(Named(model), other, None)
        foreign.save(index)
        wait_for_log(
            server,
            "the new index is rejected, the old one stays live: the index was made by document encoder",
        )
        said = server.log.read_text(errors="replace")
        assert "sha256:of-another" in said
        assert model.revision("document") in said
        (index / "vectors" / "parts" / "0" / "codes.npy").write_bytes(b"broken")
        os.utime(index / "retriever.json")
        wait_for_log(server, "codes.npy")
        again = client.infer("search", tensors(grpc, [DOCUMENTS[7]])).as_numpy("IDS")
        np.testing.assert_array_equal(first, again)
    Retriever.from_documents(model, DOCUMENTS).save(index)


class Named:
    """Stands for the other model that made an index."""

    def __init__(self, model):
        self.name, self.width = model.name, model.width

    def revision(self, role):
        return "sha256:of-another"


def wait_for_log(server, text):
    end = time.monotonic() + 60
    while text not in server.log.read_text(errors="replace"):
        assert time.monotonic() < end, server.log.read_text(errors="replace")[-2000:]
        time.sleep(0.1)


def test_a_replaced_index_goes_live_without_a_lost_or_mixed_answer(server, index, model):
    new = [f"新的{document}" for document in reversed(DOCUMENTS)] * 2
    built = Retriever.from_documents(model, new)
    former = Retriever.load(index, model)
    old, after = (
        {query: [hit.document for hit in retriever.search(query)] for query in DOCUMENTS[:20]}
        for retriever in (former, built)
    )
    seen, failures, ended = [], [], threading.Event()

    def ask(server):
        import json

        with grpc.InferenceServerClient(server.grpc) as client:
            while not ended.is_set():
                for query in old:
                    try:
                        answer = client.infer("search", tensors(grpc, [query]))
                    except grpc.InferenceServerException as failure:
                        failures.append(str(failure))
                        continue
                    found = [json.loads(raw) for raw in answer.as_numpy("DOCUMENTS")[0]]
                    seen.append("old" if found == old[query] else "new" if found == after[query] else "mixed")

    threads = [threading.Thread(target=ask, args=(server,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    built.save(index)
    end = time.monotonic() + 60
    while "new" not in seen[-1:] and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(0.5)
    ended.set()
    for thread in threads:
        thread.join()
    assert "new index loaded, 400 vectors" in server.log.read_text(errors="replace")
    assert failures == []
    assert set(seen) == {"old", "new"}
    assert seen[-1] == "new"


def test_a_sigterm_under_load_leaves_no_client_waiting(server, index, model):
    with Load(server, expected_of(index, model)) as load:
        load.wait_for(lambda answers: len(answers) > 50, 60)
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        code = server.process.wait(60)
        load.wait_for(lambda answers: answers[-1][2] != "OK", 30)
    assert code == 0
    assert load.wrong == []
    # The server refuses what comes now, and cuts off what is left when it closes its port: a client asks again, elsewhere.
    refusals = {"StatusCode.UNAVAILABLE", "StatusCode.NOT_FOUND", "StatusCode.CANCELLED"}
    assert {status for _, _, status in load.answers} - {"OK"} <= refusals
    assert max(ended - sent for sent, ended, _ in load.answers if sent > begun - 1) < 30


@pytest.mark.parametrize("name", ["document_encoder", "search"])
def test_what_was_begun_before_a_sigterm_is_finished(tmp_path, model, name):
    retriever = Retriever.from_documents(model, DOCUMENTS)
    retriever.save(tmp_path / "index")
    repository = repository_of(tmp_path / "repository", name, index=tmp_path / "index")
    if name == "document_encoder":
        # Not in the background: what gives way to others may take longer than the server waits at its end.
        config = read_config(repository / name / "config.pbtxt")
        config.parameters["background"].string_value = "false"
        (repository / name / "config.pbtxt").write_text(text_of(config))
    texts = [f"{document}{'，病史很长' * 60}" for document in DOCUMENTS[:24]]
    with Server(repository) as server:
        found = []

        def ask():
            with grpc.InferenceServerClient(server.grpc) as client:
                answer = client.infer(name, tensors(grpc, texts))
                found.append(answer.as_numpy("IDS" if name == "search" else "EMBEDDING"))

        thread = threading.Thread(target=ask)
        process = stub(server, name)
        before = ticks(process)
        thread.start()
        while ticks(process) < before + 5:  # it has begun to compute
            assert thread.is_alive()
            time.sleep(0.01)
        working = not found
        server.process.send_signal(signal.SIGTERM)
        thread.join()
        assert server.process.wait(60) == 0
    assert working
    if name == "search":
        assert found[0].tolist() == [[hit.id for hit in hits] for hits in retriever.search(texts)]
    else:
        np.testing.assert_allclose(found[0], model.encode_document(texts), atol=1e-5)


def ticks(pid):
    """Return how long a process has computed, in the system's hundredths of a second."""
    # proc(5): utime and stime are fields 14 and 15; after the name in brackets comes field 3.
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))


def test_a_queue_ten_times_too_long_is_refused_at_once_and_memory_stays(tmp_path):
    # Long texts and a short queue, so that what is sent at once is more than what can wait.
    repository = repository_of(tmp_path / "repository", "query_encoder", dtype="int8")
    model = DualEncoder.from_pretrained("care-mini", dtype="int8")
    config = repository / "query_encoder" / "config.pbtxt"
    config.write_text(re.sub(r'(key: "queue"[^"]*string_value: )"\d+"', r'\1"16"', config.read_text()))
    assert '"16"' in config.read_text()

    async def flood(server, texts):
        import tritonclient.grpc.aio as aio

        async with aio.InferenceServerClient(server.grpc) as client:

            async def ask(some):
                sent = time.monotonic()
                try:
                    answer = await client.infer("query_encoder", tensors(grpc, some))
                except grpc.InferenceServerException as refused:
                    return time.monotonic() - sent, str(refused), None
                return time.monotonic() - sent, "OK", answer.as_numpy("EMBEDDING")

            return await asyncio.gather(*(ask(some) for some in texts))

    with Server(repository) as server:
        numbers = itertools.count()

        def some_served():
            """Of some floods only the first batch is served, which those that are refused wait for as well: take another."""
            for number in itertools.islice(numbers, 8):
                texts = long_texts(number)
                answers = asyncio.run(flood(server, texts))
                if sum(said == "OK" for _, said, _ in answers) > 2 * FIRST_BATCH:
                    break
            return texts, answers

        some_served(), some_served()  # memory is taken once
        before = resident(server)
        for _ in range(3):
            texts, answers = some_served()
        after = resident(server)
        refused = [(seconds, said) for seconds, said, _ in answers if said != "OK"]
        served = [seconds for seconds, said, _ in answers if said == "OK"]
        assert len(refused) > 80
        assert all("UNAVAILABLE" in said and "requests wait" in said for _, said in refused)
        # Refusals do not wait for those that are served.
        assert np.median([seconds for seconds, _ in refused]) < np.median(served)
        assert after < 1.05 * before
        for some, (_, said, vectors) in zip(texts, answers, strict=True):
            if said == "OK":
                np.testing.assert_allclose(vectors, model.encode_query(some), atol=1e-5)
        with grpc.InferenceServerClient(server.grpc) as client:
            assert client.infer("query_encoder", tensors(grpc, ["头痛"])).as_numpy("TOKENS").shape == (1, 1)


# Requests of 16 texts in a batch of 64.
FIRST_BATCH = 4


def long_texts(number):
    """Return 160 requests of 16 texts that no other number has: a text that was encoded lately is not encoded again."""
    return [[f"{number} {i} {j} {'胸闷气短' * 20}" for j in range(16)] for i in range(160)]


def resident(server):
    """Return the memory of the server and its model processes, in bytes."""
    from .conftest import children

    (tritonserver,) = children(server.process.pid)
    pages = [
        int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        for pid in (tritonserver, *children(tritonserver))
    ]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")


def test_a_server_does_not_start_with_an_index_of_another_document_encoder(tmp_path, model):
    Retriever.from_documents(model, DOCUMENTS[:3]).save(tmp_path / "index")
    repository = repository_of(tmp_path / "repository", "scan", index=tmp_path / "index")
    other = ExactIndex(model.width, encoder_revision="sha256:of-another")
    other.add(np.eye(model.width, dtype=np.float32))
    Retriever(Named(model), other, None).save(tmp_path / "index")
    both = f"sha256:of-another.*{model.revision('document')}"
    with pytest.raises(CareError, match=both), Server(repository, log=tmp_path / "log"):
        pass
    with pytest.raises(CareError, match=both):
        write_repository(tmp_path / "repository2", index=tmp_path / "index")


def test_a_server_does_not_start_when_the_model_is_not_the_one_it_was_written_for(tmp_path, tiny_folders):
    DualEncoder.from_pretrained(
        query=tiny_folders / "query_encoder",
        document=tiny_folders / "document_encoder",
        preset="care",
        width=24,
    ).save_pretrained(tmp_path / "model")
    repository = repository_of(tmp_path / "repository", "query_encoder", model=tmp_path / "model")
    DualEncoder.from_pretrained("care-mini").save_pretrained(tmp_path / "model")
    with (
        pytest.raises(CareError, match="this repository was written for"),
        Server(repository, log=tmp_path / "log"),
    ):
        pass
