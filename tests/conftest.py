"""Shared by all tests: tiny networks of the paper's two architectures, a server, a browser, and the order of the tests."""

import fcntl
import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parent / "support"))
from browser import Browser
from cleanliness import Cleanliness
from scheduling import Scheduling, mark_and_order
from shared_server import SharedServer

# Triton decides when it is first imported whether kernels run in its interpreter: they do where there is no GPU.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")
# Workers share the cores: spinning OpenMP threads of one would slow down the others. Where a test asks for several, they wait
# without spinning.
if "PYTEST_XDIST_WORKER" in os.environ:
    for name, value in {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}.items():
        os.environ.setdefault(name, value)

_CLEANLINESS = pytest.StashKey[Cleanliness]()


def pytest_configure(config):
    if "PYTEST_XDIST_WORKER" not in os.environ:
        config.stash[_CLEANLINESS] = Cleanliness()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return Scheduling(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    mark_and_order(items)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(session):
    """Fail a run that leaves processes or files behind; its workers have ended by then."""
    result = yield
    if (own := session.config.stash.get(_CLEANLINESS, None)) and (left := own.leftovers()):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print("\nleft behind by the tests:", *left, sep="\n  ")
    return result


def pytest_unconfigure(config):
    """Remove the folder of the run, also where no session has begun (``pytest --help``)."""
    if own := config.stash.get(_CLEANLINESS, None):
        own.close()


TEXTS = [
    "高血压患者应低盐饮食，遵医嘱服用降压药，定期测量血压。",
    "糖尿病患者要控制主食，监测血糖，适量运动。",
    "感冒发热怎么办？多饮水休息，必要时用退热药。",
    "胃炎患者饮食清淡，避免辛辣刺激。骨折后应固定并尽快就医拍片。",
    "头痛头疼肚子痛咳嗽三天，血糖高吃什么？",
]


@pytest.fixture
def full_disk():
    """Return a context in which this process writes no file beyond some bytes, as on a disk that becomes full."""

    @contextmanager
    def limited(most):
        before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))

    return limited


@pytest.fixture(scope="session")
def make_encoder() -> Callable[..., Path]:
    """Return a function that writes a network with random weights, and a tokenizer, to a folder."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModel

    from care_accel.training.networks import train_tokenizer

    sizes = {"qwen3": 48}

    def make(folder: Path, model_type: str, seed: int = 0, **config: object) -> Path:
        tokenizer = train_tokenizer(TEXTS, vocab_size=160, alphabet=140)
        hidden = config.pop("hidden_size", sizes.get(model_type, 32))
        values = {
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 2 * hidden,
            "pad_token_id": tokenizer.pad_token_id,
        }
        if model_type == "qwen3":
            values |= {"num_key_value_heads": 2, "head_dim": hidden // 4}
        torch.manual_seed(seed)
        AutoModel.from_config(CONFIG_MAPPING[model_type](**values | config)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_folders(make_encoder, tmp_path_factory) -> Path:
    """Return a folder with ``query_encoder`` (gte, hidden 32) and ``document_encoder`` (qwen3, hidden 48)."""
    folder = tmp_path_factory.mktemp("tiny")
    make_encoder(folder / "query_encoder", "gte", seed=1)
    make_encoder(folder / "document_encoder", "qwen3", seed=2)
    return folder


@pytest.fixture
def tiny_model(tiny_folders):
    """Return the dual encoder of `tiny_folders` in CARE's way, cut to width 24."""
    from care_accel import DualEncoder

    return DualEncoder.from_pretrained(
        query=tiny_folders / "query_encoder",
        document=tiny_folders / "document_encoder",
        preset="care",
        width=24,
        runtime="pytorch",  # tests look into its network
    )


def missing_server() -> str | None:
    """Return why there is no server here, None if there is one."""
    from care_accel import CareError
    from care_accel.serving.tritonserver.program import find_program

    try:
        find_program()
    except CareError as missing:
        return str(missing)
    return None


@pytest.fixture(scope="session")
def require_server() -> None:
    """Skip where there is no server: its wheel is for Python below 3.13, and needs the system's Python library."""
    if missing := missing_server():
        assert not os.environ.get("CI"), missing
        pytest.skip(missing)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> Path:
    """Return a folder that all workers of the run share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session", autouse=True)
def shared_server(request, run_folder) -> Iterator[SharedServer]:
    """Return the run's server, which starts while tests that do not need it run."""
    shared = SharedServer(run_folder)
    first = os.environ.get("PYTEST_XDIST_WORKER", "gw0") == "gw0"
    if (
        first
        and any("care_server" in item.fixturenames for item in request.session.items)
        and missing_server() is None
    ):
        shared.start_early()
    yield shared
    shared.close()


@pytest.fixture(scope="session")
def care_server(require_server, shared_server) -> Iterator[SimpleNamespace]:
    """Return a real server of the committed repository: see `SharedServer.use`."""
    with shared_server.use() as server:
        yield server


@pytest.fixture(scope="session")
def embedded_model():
    """Return the embedded model, in this process."""
    from care_accel import DualEncoder

    return DualEncoder.from_pretrained(device="cpu")


@pytest.fixture(scope="session")
def demo(embedded_model, run_folder):
    """Return the retriever that the committed repository serves, made by the library once a run."""
    from care_accel import ExactIndex, Retriever
    from care_accel.eval.command import DEMO
    from care_accel.files import read_jsonl

    rows = [row for _, row in read_jsonl(DEMO / "retrieval" / "care-demo" / "corpus.jsonl")]
    folder = run_folder / "demo"
    with (run_folder / "demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            texts = [f"{row['title']} {row['text']}".strip() for row in rows]
            Retriever.from_documents(embedded_model, texts).index.save(folder)
    return Retriever(embedded_model, ExactIndex.load(folder), rows)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory) -> Iterator[Browser]:
    """Return a tab of a headless Chromium."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs a browser: Debian package chromium")
    browser = Browser(program, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()
