"""Encoders inside the real server in the ways that the committed repository does not use."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from care_accel import Retriever
from care_accel.serving import Server, write_repository
from care_accel.serving.repository.config import write_model
from care_accel.serving.repository.python_backend import search_ensemble

from .conftest import stub, tensors

grpc = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed (extra server)")

TEXTS = ["高血压怎么治", "a", "孩子发烧三天了，咳嗽有痰。" * 40]


@pytest.mark.usefixtures("require_server")
def test_vectors_that_stay_on_the_device_reach_clients_and_the_scan(tmp_path, model):
    """Without a GPU the device is the processor: tensors pass by DLPack all the same."""
    Retriever.from_documents(model, TEXTS * 5).save(tmp_path / "index")
    write_repository(tmp_path / "r", index=tmp_path / "index", runtime="pytorch", several_tenants=True)
    for name in ("document_encoder", "search"):
        shutil.rmtree(tmp_path / "r" / name)
    write_model(tmp_path / "r", search_ensemble())
    config = tmp_path / "r" / "query_encoder" / "config.pbtxt"
    text, replaced = re.subn(
        r'(key: "on_device"\s+value \{\s+string_value: )"false"', r'\1"true"', config.read_text()
    )
    assert replaced == 1
    config.write_text(text)
    with Server(tmp_path / "r") as server, grpc.InferenceServerClient(server.grpc) as client:
        tasks = np.array([[b"sts"], [b"retrieval"], [b"sts"]], dtype=object)
        found = client.infer("query_encoder", tensors(grpc, TEXTS, TASK=tasks)).as_numpy("EMBEDDING")
        for text, task, vector in zip(TEXTS, tasks.ravel(), found, strict=True):
            np.testing.assert_allclose(vector, model.encode_query(text, task=task.decode()), atol=1e-5)
        ids = client.infer("search", tensors(grpc, TEXTS)).as_numpy("IDS")
        direct = client.infer("scan", tensors(grpc, EMBEDDING=model.encode_query(TEXTS))).as_numpy("IDS")
        np.testing.assert_array_equal(ids, direct)


def test_what_computes_documents_gives_way_and_what_talks_to_the_server_does_not(server, client):
    """Queries and documents are processes of their own, and the system runs the second kind when nobody else wants to."""
    client.infer("document_encoder", tensors(grpc, TEXTS * 10))
    client.infer("query_encoder", tensors(grpc, TEXTS))
    documents = stub(server, "document_encoder")
    found = policies(documents)
    assert SCHED_IDLE in found.values()
    assert found[documents] != SCHED_IDLE  # the main thread
    assert SCHED_IDLE not in policies(stub(server, "query_encoder")).values()


SCHED_IDLE = 5


def policies(pid):
    """Return the scheduling policy of each thread of a process."""
    # proc(5): the policy is field 41; after the name in brackets comes field 3.
    return {
        int(file.parent.name): int(file.read_text().rpartition(")")[2].split()[38])
        for file in Path(f"/proc/{pid}/task").glob("*/stat")
    }
