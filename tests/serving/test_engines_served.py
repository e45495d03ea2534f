"""What the repositories for other engines give in the real server, and in ONNX Runtime.

NVIDIA's backends are not available. In the server a Python model replaces the network and runs the same
``model.onnx``; its configuration is otherwise the one that was written.
"""

import shutil

import numpy as np
import onnxruntime
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from care_accel import DualEncoder, ExactIndex
from care_accel.serving.repository.config import read_config, write_model
from care_accel.serving.repository.engines import write_engine_repository
from care_accel.serving.tritonserver.server import Server

ROLES = ("query", "document")
QUERIES = ["高血压怎么治", "糖尿病人能吃西瓜吗？" * 3, "a", "头痛 fever 38.5℃", "，。" * 41, "感冒" * 700]

# What stands where a container has the ONNX Runtime backend.
STAND_IN = """import os, site
any(map(site.addsitedir, filter(None, os.environ.get("CARE_ACCEL_SITE", "").split(os.pathsep))))
import numpy as np
import onnxruntime
import triton_python_backend_utils as server

class TritonPythonModel:
    def initialize(self, args):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(args["model_repository"] + "/1/model.onnx", options)

    def execute(self, requests):
        names = ("input_ids", "attention_mask")
        given = [[server.get_input_tensor_by_name(r, n).as_numpy() for n in names] for r in requests]
        together = {name: np.concatenate([one[i] for one in given]) for i, name in enumerate(names)}
        vectors, = self.session.run(["vectors"], together)
        ends = np.cumsum([len(one[0]) for one in given])
        parts = np.split(vectors, ends[:-1])
        return [server.InferenceResponse([server.Tensor("vectors", part)]) for part in parts]
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Return the repository of the embedded model for ONNX Runtime, with an index of three documents."""
    folder = tmp_path_factory.mktemp("engines")
    model = DualEncoder.from_pretrained("care-mini", runtime="pytorch")
    index = ExactIndex(model.width)
    index.add(model.encode_document(QUERIES[:3]))
    index.save(folder / "index")
    write_engine_repository(folder / "r", "care-mini", engine="onnxruntime", index=folder / "index")
    return folder / "r"


@pytest.fixture(scope="module")
def library():
    return DualEncoder.from_pretrained("care-mini", runtime="pytorch")


@pytest.fixture(scope="module")
def client(require_server, repository, tmp_path_factory):
    """Return a client of the real server; Python models run the graphs there."""
    served = tmp_path_factory.mktemp("served") / "r"
    shutil.copytree(repository, served)
    for role in ROLES:
        config = read_config(served / f"{role}_network" / "config.pbtxt")
        config.platform, config.backend = "", "python"
        config.parameters.clear()
        write_model(served, config, {"1/model.py": STAND_IN})
    with Server(served) as server, InferenceServerClient(server.grpc) as client:
        yield client


def ask(client, model, texts, **more):
    inputs = []
    for name, values in {"TEXT": texts, **more}.items():
        given = InferInput(name, [len(values), 1], "BYTES")
        raw = [value.encode() if isinstance(value, str) else value for value in values]
        given.set_data_from_numpy(np.array(raw, dtype=np.object_)[:, None])
        inputs.append(given)
    return client.infer(model, inputs)


@pytest.mark.parametrize("role", ROLES)
def test_the_tokenizer_in_the_real_server_gives_what_the_library_s_encoder_gives(
    client, repository, library, role
):
    session = onnxruntime.InferenceSession(str(repository / f"{role}_network" / "1" / "model.onnx"))
    encoder = library.encoder(role)
    for texts in (QUERIES, QUERIES[:1], QUERIES[2:5], QUERIES[:4] * 8):
        answer = ask(client, f"{role}_tokenizer", texts)
        ids, mask = answer.as_numpy("input_ids"), answer.as_numpy("attention_mask")
        rows = encoder.tokenize(texts)
        assert answer.as_numpy("TOKENS").ravel().tolist() == [len(row) for row in rows]
        assert [row[keep == 1].tolist() for row, keep in zip(ids, mask, strict=True)] == rows
        wanted = encoder.pad(rows, ids.shape[1])
        assert np.array_equal(ids, wanted[0])
        assert np.array_equal(mask, wanted[1])
        # And the graph makes the library's vectors of it, whatever was filled up.
        (vectors,) = session.run(["vectors"], {"input_ids": ids, "attention_mask": mask})
        np.testing.assert_allclose(vectors, encoder.encode(texts), atol=1e-5)


@pytest.mark.parametrize("role", ROLES)
def test_the_ensemble_in_the_real_server_gives_the_library_s_vectors(client, library, role):
    for texts in (QUERIES, QUERIES[3:4]):
        answer = ask(client, f"{role}_encoder", texts)
        np.testing.assert_allclose(
            answer.as_numpy("EMBEDDING"), library.encoder(role).encode(texts), atol=1e-5
        )
        assert answer.as_numpy("TOKENS").dtype == np.int32
    hits = ask(client, "search", QUERIES[:1])
    assert hits.as_numpy("IDS")[0, 0] == 0


@pytest.mark.parametrize(
    ("texts", "more", "said"),
    [
        ([""], {}, "TEXT 0 is empty"),
        (["x", b"\xff\xfe"], {}, "TEXT 1 is not UTF-8"),
        (["x" * 100_001], {}, "100,001 bytes"),
        (["x"], {"TASK": ["translation"]}, "TASK 0 is 'translation'"),
    ],
)
def test_a_wrong_request_is_refused_and_the_next_one_answered(client, texts, more, said):
    with pytest.raises(InferenceServerException, match=said) as refused:
        ask(client, "query_encoder", texts, **more)
    assert "INVALID_ARGUMENT" in refused.value.status()
    assert ask(client, "query_encoder", ["x"]).as_numpy("EMBEDDING").shape == (1, 384)
