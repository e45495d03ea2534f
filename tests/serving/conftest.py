"""A real tritonserver with the committed repository, and plain clients of it."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from care_accel import DualEncoder

REPOSITORY = Path(__file__).parents[2] / "model_repository"


@pytest.fixture(scope="session")
def server(care_server):
    return care_server


@pytest.fixture(scope="session")
def model():
    return DualEncoder.from_pretrained("care-mini")


@pytest.fixture
def client(server):
    import tritonclient.grpc as grpc

    with grpc.InferenceServerClient(server.grpc) as one:
        yield one


@pytest.fixture
def python_backend(monkeypatch):
    """Return what stands for the server's Python backend in this process."""
    from .python_backend import PythonBackend

    stand_in = PythonBackend()
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", stand_in)
    return stand_in


@pytest.fixture
def query_repository(tmp_path):
    """Return a copy of the committed repository without the document encoder, which loads for longest."""
    copy = tmp_path / "model_repository"
    shutil.copytree(REPOSITORY, copy)
    shutil.rmtree(copy / "document_encoder")
    return copy


def tensors(library, texts=None, **more):
    """Return the inputs of a request in a client's library, ``tritonclient.grpc`` or ``.http``: TEXT and others.

    A number or text is repeated for every text.
    """
    given = {} if texts is None else {"TEXT": np.array([[_raw(text)] for text in texts], dtype=object)}
    rows = len(texts or ())
    for name, value in more.items():
        if isinstance(value, bool):
            given[name] = np.full((rows, 1), value)
        elif isinstance(value, int):
            given[name] = np.full((rows, 1), value, dtype=np.int32)
        elif isinstance(value, str):
            given[name] = np.array([[value.encode()]] * rows, dtype=object)
        else:
            given[name] = value
    kinds = {"O": "BYTES", "b": "BOOL", "i4": "INT32", "i8": "INT64", "f4": "FP32"}
    inputs = []
    for name, array in given.items():
        kind = kinds.get(array.dtype.kind) or kinds[array.dtype.str[1:]]
        inputs.append(library.InferInput(name, list(array.shape), kind))
        inputs[-1].set_data_from_numpy(array)
    return inputs


def _raw(text):
    return text if isinstance(text, bytes) else text.encode()


def children(pid):
    """Return the processes that a process has started, as a dict of number to command line."""
    listing = subprocess.run(
        ["ps", "-ww", "--ppid", str(pid), "-o", "pid=,args="], capture_output=True, text=True, check=False
    )
    return {int(line.split()[0]): line.split(None, 1)[1] for line in listing.stdout.splitlines()}


def stub(server, name):
    """Return the process that runs a model."""
    (tritonserver,) = children(server.process.pid)
    return next(pid for pid, command in children(tritonserver).items() if f" {name}_0_0" in command)
