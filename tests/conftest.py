"""Tiny real networks: the paper's two architectures with random weights and a small tokenizer of their own."""

import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from browser import Browser

# Triton decides when it is first imported whether kernels run in its interpreter: they do where there is no GPU.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

TEXTS = [
    "高血压患者应低盐饮食，遵医嘱服用降压药，定期测量血压。",
    "糖尿病患者要控制主食，监测血糖，适量运动。",
    "感冒发热怎么办？多饮水休息，必要时用退热药。",
    "胃炎患者饮食清淡，避免辛辣刺激。骨折后应固定并尽快就医拍片。",
    "头痛头疼肚子痛咳嗽三天，血糖高吃什么？",
]


@pytest.fixture(scope="session")
def make_encoder() -> Callable[..., Path]:
    """Return a function that writes a network with random weights, and a tokenizer, to a folder."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModel

    from care_accel.training.networks import train_tokenizer

    sizes = {"gte": 32, "qwen3": 48}

    def make(folder: Path, model_type: str, seed: int = 0, **config: object) -> Path:
        tokenizer = train_tokenizer(TEXTS, vocab_size=160, alphabet=140)
        hidden = config.pop("hidden_size", sizes[model_type])
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


@contextmanager
def held(file: Path) -> Iterator[dict]:
    """Give the values in a JSON file, and write them back; one process at a time."""
    with file.open("a+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        values = json.loads(stream.read() or "{}")
        yield values
        stream.truncate(0)
        json.dump(values, stream)
        stream.flush()


@pytest.fixture(scope="session")
def require_server() -> None:
    """Skip where there is no server: its wheel is for Python below 3.13, and needs the system's Python library."""
    from care_accel import CareError
    from care_accel.serving.tritonserver.program import find_program

    try:
        find_program()
    except CareError as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def care_server(require_server, tmp_path_factory) -> Iterator[SimpleNamespace]:
    """Return a real server of the committed repository: its addresses, its log and the process that keeps it.

    It takes a while to start, so that the processes of a test run share one. Who starts it waits at the end for the
    others.
    """
    from care_accel.serving import Server

    folder = tmp_path_factory.getbasetemp()
    file = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "server.json"
    own = None
    with held(file) as known:
        if not known:
            own = Server(Path(__file__).parents[1] / "model_repository").start(timeout=300)
            addresses = {name: getattr(own, name) for name in ("grpc", "http", "metrics")}
            known |= {"users": 0, "server": addresses | {"log": str(own.log), "pid": own.process.pid}}
        known["users"] += 1
        server = SimpleNamespace(**known["server"])
    server.log = Path(server.log)
    server.process = SimpleNamespace(pid=server.pid)
    yield server
    with held(file) as known:
        known["users"] -= 1
    while own is not None:
        with held(file) as known:
            if known["users"] == 0:
                known.clear()
                own.__exit__()
                break
        time.sleep(0.2)


@pytest.fixture(scope="session")
def embedded_model():
    """Return the embedded model, in this process."""
    from care_accel import DualEncoder

    return DualEncoder.from_pretrained(device="cpu")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory) -> Iterator[Browser]:
    """Return a tab of a headless Chromium."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs a browser: Debian package chromium")
    browser = Browser(program, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()
