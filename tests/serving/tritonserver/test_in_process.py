"""A model in the server's process beside the same model in a process of its own, and a small model that does all it should not."""

import contextlib
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from care_accel import Retriever
from care_accel.serving import Server, write_repository
from care_accel.serving.repository.config import Tensor, model_config, read_config, text_of, write_model
from care_accel.serving.tritonserver import in_process
from care_accel.serving.tritonserver.in_process import backend_arguments, why_not
from care_accel.serving.tritonserver.program import Program, find_program

from ..conftest import REPOSITORY, children, tensors

grpc = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed (extra server)")

DOCUMENTS = [f"第{i}号文档：{'头痛发热咳嗽腹泻失眠'[i % 10]}怎么办" for i in range(200)]
QUERIES = [*DOCUMENTS[:6], "高血压", "a", "长" * 700]
HERE, BESIDE = "search", "beside"
OUTPUTS = ("IDS", "SCORES", "DOCUMENTS", "TOKENS")
KEY = {"triton-grpc-protocol-key": "mine"}
DTYPES = {
    **{"BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64},
    **{"INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64},
    **{"FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "BYTES": np.object_},
}
ECHO = """
import threading
import numpy as np
import triton_python_backend_utils as server

class TritonPythonModel:
    def execute(self, requests):
        answers = [self.answer({one.name(): one.as_numpy() for one in request.inputs()}) for request in requests]
        return [answer for answer in answers if answer != "few"]

    def answer(self, inputs):
        mode = inputs.pop("MODE")[0, 0].decode()
        if mode == "raise":
            raise ValueError("no luck")
        if mode in ("few", "none"):
            return {"few": "few", "none": None}[mode]
        if mode == "complex":
            inputs = {"INT32": np.zeros((1, 1), np.complex64)}
        if mode == "threads":  # those of all models in this interpreter
            names = sorted(one.name for one in threading.enumerate() if not one.name.startswith("Dummy"))
            inputs = {"BYTES": np.array([[[name.encode() for name in names]]], dtype=object)}
        if mode == "text":
            inputs = {"BYTES": np.array([["text"]], dtype=object)}
        # As views that are not contiguous: columns of twice as many.
        return server.InferenceResponse(
            [server.Tensor(f"O_{name}", np.repeat(values, 2, -1)[..., ::2]) for name, values in inputs.items()]
        )
"""
BROKEN = """
from care_accel.errors import CareError

class TritonPythonModel:
    def initialize(self, arguments):
        raise CareError("no luck with 高血压")
"""


@pytest.fixture(scope="module")
def index(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("in-process") / "index"
    Retriever.from_documents(model, DOCUMENTS).save(folder)
    return folder


@pytest.fixture(scope="module")
def server(require_server, index):
    """Return a server of both searches and of the small models, whose control APIs take the key."""
    repository = index.parent / "repository"
    write_repository(repository, index=index, in_process=True)
    for name in ("query_encoder", "document_encoder", "scan"):
        shutil.rmtree(repository / name)
    shutil.copytree(repository / HERE, repository / BESIDE)
    for name, backend in ((HERE, "care"), (BESIDE, "python")):
        config = read_config(repository / name / "config.pbtxt")
        config.name, config.backend = name, backend
        config.parameters["warm_up_batch"].string_value = "1"  # which loads in a second less
        (repository / name / "config.pbtxt").write_text(text_of(config))
    echo = model_config(
        "echo",
        backend="care",
        inputs=[Tensor("MODE", "BYTES"), *(Tensor(name, name, (-1, -1), optional=True) for name in DTYPES)],
        outputs=[Tensor(f"O_{name}", name, (-1, -1)) for name in DTYPES],
        max_batch_size=8,
    )
    # The lines that find the packages, with which those of a repository begin.
    start = "".join((repository / HERE / "1" / "model.py").read_text().splitlines(keepends=True)[:2])
    write_model(repository, echo, {"1/model.py": start + ECHO})
    for backend in ("care", "python"):
        broken = model_config(
            f"broken_{backend}",
            backend=backend,
            inputs=[Tensor("A", "INT32")],
            outputs=[Tensor("B", "INT32")],
            max_batch_size=1,
        )
        write_model(repository, broken, {"1/model.py": start + BROKEN})
    arguments = [
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in (HERE, BESIDE, "echo")),
        "--grpc-restricted-protocol=model-repository:key=mine",
    ]
    with Server(repository, arguments=arguments) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with grpc.InferenceServerClient(server.grpc) as one:
        yield one


def answer_of(client, name, texts, **more):
    """Return what a model answers: outputs as lists, or status and message."""
    try:
        answer = client.infer(name, tensors(grpc, texts, **more))
    except grpc.InferenceServerException as refused:
        return refused.status(), refused.message()
    outputs = {output: answer.as_numpy(output) for output in OUTPUTS}
    return {output: (values.dtype.str, values.tolist()) for output, values in outputs.items()}


def tritonserver(server):
    (process,) = children(server.process.pid)
    return process


def test_search_has_no_process_of_its_own(server):
    started = children(tritonserver(server)).values()
    assert [name for name in (HERE, BESIDE, "echo") if any(f" {name}_0_0" in one for one in started)] == [
        BESIDE
    ]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"K": 3, "TASK": "sts"},
        {"K": np.array([[1], [200], [7]] * 3, np.int32)},
        {"SUBSET": np.array([[5, 9, -1]] * 9)},
        {"K": 0},
        {"K": 1001},
        {"TASK": "dance"},
        {"SUBSET": np.array([[200]] * 9)},
    ],
    ids=str,
)
def test_answers_and_refusals_are_those_of_the_python_backend(client, more):
    assert answer_of(client, HERE, QUERIES, **more) == answer_of(client, BESIDE, QUERIES, **more)


@pytest.mark.parametrize("texts", [[""], [b"\xff"], ["头痛", "长" * 40_000]])
def test_a_wrong_text_is_refused_in_the_same_words(client, texts):
    refused = answer_of(client, HERE, texts)
    assert refused == answer_of(client, BESIDE, texts)
    assert refused[0] == "StatusCode.INVALID_ARGUMENT"


def test_hits_are_the_library_s_and_only_what_is_asked_for_is_sent(client, index, model):
    wanted = [grpc.InferRequestedOutput("IDS")]
    answer = client.infer(HERE, tensors(grpc, QUERIES), outputs=wanted)
    found = Retriever.load(index, model).search(QUERIES)
    assert answer.as_numpy("IDS").tolist() == [[hit.id for hit in hits] for hits in found]
    assert answer.as_numpy("SCORES") is None


def test_requests_that_come_at_once_have_their_own_answers(client):
    expected = {text: answer_of(client, BESIDE, [text])["IDS"][1] for text in QUERIES}
    found, done = [], threading.Semaphore(0)
    for text in QUERIES * 8:
        client.async_infer(
            HERE,
            tensors(grpc, [text]),
            lambda result, error, text=text: (found.append((text, result, error)), done.release()),
        )
    assert all(done.acquire(timeout=60) for _ in QUERIES * 8)
    for text, result, error in found:
        assert error is None
        assert result.as_numpy("IDS").tolist() == expected[text]


def test_statistics_and_metrics_count_as_those_of_the_python_backend(server, client):
    def statistics(name):
        (one,) = client.get_inference_statistics(name).model_stats
        return one

    for name in (HERE, BESIDE):
        # Some backends count after they have answered: that of the tests before is waited for as well.
        time.sleep(0.3)
        total = statistics(name).inference_count + len(QUERIES)
        answer_of(client, name, QUERIES)
        assert wait_until(lambda name=name, total=total: statistics(name).inference_count == total)
        one = statistics(name)
        assert one.inference_stats.compute_infer.ns > one.inference_stats.compute_input.ns > 0

    def shown(name):
        return {line.split("{")[0] for line in metrics(server) if f'model="{name}"' in line}

    # A model reports once in a second, at first a second after it was loaded.
    assert wait_until(lambda: {"care_texts_total", "care_queries_total", "care_recall"} <= shown(HERE))
    assert wait_until(lambda: shown(HERE) == shown(BESIDE))


def metrics(server):
    import urllib.request

    with urllib.request.urlopen(f"http://{server.metrics}/metrics") as page:
        return page.read().decode().splitlines()


def echo(client, mode="echo", **arrays):
    inputs = []
    for name, values in {"MODE": np.array([[mode.encode()]], dtype=object), **arrays}.items():
        inputs.append(grpc.InferInput(name, list(values.shape), "BYTES" if name == "MODE" else name))
        inputs[-1].set_data_from_numpy(values)
    return client.infer("echo", inputs)


def test_tensors_of_every_type_come_and_go_as_they_are(client):
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.integers(0, 256, (1, 3, 5 * np.dtype(dtype).itemsize)).astype(np.uint8).view(dtype)
        for name, dtype in DTYPES.items()
        if name not in ("BYTES", "BOOL")
    }
    arrays["BOOL"] = rng.random((1, 2, 7)) < 0.5
    arrays["BYTES"] = np.array([[[b"", b"\0\xff"], ["高血压".encode(), b"x" * 100_000]]], dtype=object)
    found = echo(client, **arrays)
    for name, values in arrays.items():
        returned = found.as_numpy(f"O_{name}")
        assert (returned.dtype, returned.shape) == (values.dtype, values.shape)
        same = returned.tobytes() == values.tobytes() if name != "BYTES" else (returned == values).all()
        assert same, name


def test_empty_tensors_come_and_go(client):
    found = echo(client, INT32=np.zeros((1, 0, 3), np.int32), BYTES=np.zeros((1, 0, 2), dtype=object))
    assert found.as_numpy("O_INT32").shape == (1, 0, 3)
    assert found.as_numpy("O_BYTES").shape == (1, 0, 2)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        (
            "raise",
            r"Failed to process the request.s. for model instance 'echo_0', message: ValueError: no luck",
        ),
        ("few", "the model has 0 responses for 1 requests"),
        ("none", "the model's response is no InferenceResponse"),
        ("complex", "output 'O_INT32' has a type that the server has not"),
        ("text", "output 'O_BYTES' has a value that is not bytes"),
    ],
)
def test_what_a_model_does_wrong_is_an_error_of_its_requests_alone(client, mode, message):
    with pytest.raises(grpc.InferenceServerException, match=message):
        echo(client, mode)
    assert echo(client, INT32=np.ones((1, 1, 1), np.int32)).as_numpy("O_INT32") == 1
    assert len(answer_of(client, HERE, ["头痛"])) == len(OUTPUTS)


def test_a_model_that_does_not_load_says_why_as_in_the_python_backend(client):
    said = {}
    for backend in ("care", "python"):
        with pytest.raises(grpc.InferenceServerException) as refused:
            client.load_model(f"broken_{backend}", headers=KEY)
        said[backend] = refused.value.message().partition("\n\nAt:")[0].replace(backend, "")
    assert said["care"] == said["python"]
    assert "CareError: no luck with 高血压" in said["care"]


def test_a_model_is_loaded_again_and_leaves_no_thread_and_no_metric(server, client):
    def threads():
        return echo(client, "threads").as_numpy("O_BYTES").ravel().tolist()

    def counted():
        return [line for line in metrics(server) if f'care_texts_total{{model="{HERE}"' in line]

    before = threads()
    assert {b"metrics", b"index", b"backlog"} <= set(before)
    assert wait_until(counted)
    client.unload_model(HERE, headers=KEY)
    assert wait_until(lambda: not client.is_model_ready(HERE))
    assert wait_until(lambda: not counted())
    client.load_model(HERE, headers=KEY)
    assert answer_of(client, HERE, QUERIES) == answer_of(client, BESIDE, QUERIES)
    assert wait_until(lambda: threads() == before)


def wait_until(found, seconds=30.0):
    end = time.monotonic() + seconds
    while not found() and time.monotonic() < end:
        time.sleep(0.02)
    return found()


def test_a_replaced_index_goes_live(client, index, model):
    new = [f"新的{document}" for document in DOCUMENTS]
    Retriever.from_documents(model, new).save(index)
    assert wait_until(lambda: "新的".encode() in answer_of(client, HERE, ["头痛"])["DOCUMENTS"][1][0][0])


def test_what_was_begun_before_a_sigterm_is_finished(server, client, index, model):
    """The last one: it ends the server."""
    expected = {text: [hit.id for hit in Retriever.load(index, model).search(text)] for text in QUERIES}
    answers, wrong, begun = [], [], threading.Event()

    def ask(first):
        with (
            grpc.InferenceServerClient(server.grpc) as own,
            contextlib.suppress(grpc.InferenceServerException),
        ):
            for number in range(first, 100_000):
                text = QUERIES[number % len(QUERIES)]
                found = own.infer(HERE, tensors(grpc, [text])).as_numpy("IDS")[0].tolist()
                answers.append(text)
                if found != expected[text]:
                    wrong.append(text)
                if len(answers) > 50:
                    begun.set()

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    assert begun.wait(60)
    os.kill(server.process.pid, signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert not wrong
    assert server.process.wait(60) == 0


def test_a_server_finds_this_backend_beside_its_own_if_a_repository_asks_for_it(tmp_path, monkeypatch):
    library, backends, run = tmp_path / "libtriton_care.so", tmp_path / "backends", tmp_path / "run"
    monkeypatch.setattr(in_process, "_LIBRARY", library)
    (backends / "python").mkdir(parents=True)
    program = Program(Path("/tritonserver"), backends=backends)
    asks = [f"--model-repository={REPOSITORY}", f"--model-repository={tmp_path / 'r'}"]
    (tmp_path / "r" / "search").mkdir(parents=True)
    (tmp_path / "r" / "search" / "config.pbtxt").write_text('name: "search"\nbackend: "care"\n')
    assert backend_arguments(program, asks, run) == []  # there is no library
    library.touch()
    assert backend_arguments(program, asks[:1], run) == []
    assert backend_arguments(program, [*asks, "--backend-directory=/mine"], run) == []
    assert backend_arguments(Program(Path("/tritonserver")), asks, run) == []
    (argument,) = backend_arguments(program, asks, run)
    folder = Path(argument.removeprefix("--backend-directory="))
    assert (folder / "care" / library.name).samefile(library)
    assert (folder / "python").samefile(backends / "python")


def test_why_a_server_cannot_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(in_process, "_LIBRARY", tmp_path / "libtriton_care.so")
    program = Program(Path("/bin/tritonserver"), backends=tmp_path)
    assert "this build of care_accel has no libtriton_care.so" in why_not(program)
    (tmp_path / "libtriton_care.so").touch()
    assert why_not(program) is None
    assert "the backends of /bin/tritonserver are not" in why_not(Program(Path("/bin/tritonserver")))
    monkeypatch.setattr(in_process.tempfile, "gettempdir", lambda: "/my temporary files")
    assert "the path of the temporary folder, /my temporary files, has characters" in why_not(program)


@pytest.mark.usefixtures("require_server")
def test_the_server_that_is_installed_can():
    assert why_not(find_program()) is None
