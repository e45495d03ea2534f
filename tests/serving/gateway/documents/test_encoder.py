"""Vectors are kept only if the server had the same model before and after they were made."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("starlette", reason="needs the extra gateway")

from care_accel import CareError
from care_accel.encoding.runtimes.attempts import ServerError
from care_accel.encoding.spec import EncoderSpec
from care_accel.serving.gateway.documents.encoder import EncoderChanged, SteadyDualEncoder

SPEC = EncoderSpec(pooling="first", order="normalize-then-slice", width=4)


class Client:
    """Stands where a `ServerClient` does: descriptions are cached until they are asked for anew."""

    address = "server:1"

    def __init__(self):
        self.revision, self.known, self.fault = "1", {}, None

    def describe(self, role, *, refresh=False):
        if refresh or role not in self.known:
            self.known[role] = SimpleNamespace(
                name="m", role=role, width=4, revision=self.revision, spec=SPEC, symmetric=False
            )
        return self.known[role]

    def encode(self, role, texts, task, **options):
        if self.fault is not None:
            raise self.fault
        return SimpleNamespace(
            vectors=np.ones((len(texts), 4), np.float32), tokens=np.ones(len(texts), np.int32)
        )


@pytest.fixture
def client():
    return Client()


@pytest.fixture
def encode(client):
    encoder = SteadyDualEncoder(client).encoder("document")
    return lambda: encoder.encode(["a", "b"])


def test_the_same_model_encodes_again_and_again(encode):
    assert encode().shape == encode().shape == (2, 4)


def test_a_model_that_was_replaced_unnoticed_is_noticed_before_its_vectors_are_kept(client, encode):
    encode()
    client.revision = "2"  # a plain client still has the first description
    with pytest.raises(EncoderChanged, match="2"):
        encode()


def test_what_the_client_refuses_is_a_change_and_what_the_server_refuses_is_not(client, encode):
    client.fault = CareError("server:1: switched to another document encoder during the request")
    with pytest.raises(EncoderChanged, match="switched"):
        encode()
    client.fault = ServerError("UNAVAILABLE", "server:1: is overloaded")
    with pytest.raises(ServerError):
        encode()
