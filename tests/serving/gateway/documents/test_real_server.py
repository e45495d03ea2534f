"""Documents that the real inference server encodes for the gateway: the vectors are the library's."""

import numpy as np
import pytest

pytest.importorskip("starlette", reason="needs the extra gateway")
pytest.importorskip("lance", reason="needs the extra collection")

from starlette.testclient import TestClient

from care_accel import Collection
from care_accel.encoding.runtimes.server import AsyncServerClient, ServerClient
from care_accel.serving.gateway import Settings
from care_accel.serving.gateway.app import create_app
from care_accel.serving.gateway.documents.encoder import SteadyDualEncoder
from care_accel.serving.gateway.documents.store import DocumentStore

from .quick import WRITE

ROWS = [
    {
        "id": f"d{i}",
        "title": "高血压",
        "text": "低盐饮食，规律服药。定期测量血压，适量运动。" * i,
        "year": 2000 + i,
    }
    for i in range(1, 12)
]


@pytest.mark.parametrize("chunk_tokens", [None, 64])
def test_documents_are_encoded_by_the_server_as_the_library_does(
    care_server, embedded_model, tmp_path, chunk_tokens
):
    folder = tmp_path / "articles"
    Collection.create(folder, "care-mini", chunk_tokens=chunk_tokens)
    store = DocumentStore(
        Collection.open(folder), lambda: SteadyDualEncoder(ServerClient(care_server.grpc, timeout=60.0))
    )
    app = create_app(
        Settings(rate=0.0, write_tokens=(WRITE,)), AsyncServerClient(care_server.grpc), documents=store
    )
    headers = {"authorization": f"Bearer {WRITE}"}
    with TestClient(app, base_url="http://localhost", headers=headers) as client:
        answer = client.put("/v1/documents", json={"documents": ROWS})
        assert answer.json() | {"version": 0} == {"new": 11, "changed": 0, "same": 0, "version": 0}
    found = Collection.open(folder, model=embedded_model)
    assert found.version == answer.json()["version"]
    found.verify(encode=5)
    other = Collection.create(tmp_path / "local", embedded_model, chunk_tokens=chunk_tokens)
    other.upsert(ROWS)
    for here, there in zip(found.search("血压高", k=11), other.search("血压高", k=11), strict=True):
        assert (here.span is None) == (chunk_tokens is None)
        np.testing.assert_allclose(here.score, there.score, atol=1e-4)
