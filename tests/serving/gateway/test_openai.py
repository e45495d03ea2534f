"""The client package that the gateway's embeddings are for, over a real socket."""

import base64

import numpy as np
import openai
import pytest

from care_accel.encoding.runtimes.attempts import ServerError

TOKEN = "0123456789abcdef0123"


@pytest.fixture
def client(served):
    def connect(**settings):
        address = served(**settings).address
        return openai.OpenAI(base_url=f"{address}/v1", api_key=TOKEN, max_retries=0)

    return connect


def test_a_text_becomes_the_vector_that_the_server_gives(client, memory):
    answer = client().embeddings.create(model="care-mini", input="高血压怎么治")
    assert answer.model == "care-mini"
    assert (
        np.float32(answer.data[0].embedding).tolist() == memory.vectors("query", ["高血压怎么治"])[0].tolist()
    )
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (6, 6)


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_a_list_keeps_its_order_in_either_encoding(client, memory, encoding):
    texts = ["头痛", "发热怎么办", ""]
    answer = client().embeddings.create(
        model="care-mini", input=texts, encoding_format=encoding, extra_body={"input_type": "document"}
    )
    assert [one.index for one in answer.data] == [0, 1, 2]
    rows = [
        np.float32(one.embedding)
        if encoding == "float"
        else np.frombuffer(base64.b64decode(one.embedding), "<f4")
        for one in answer.data
    ]
    assert np.array_equal(rows, memory.vectors("document", texts))
    assert memory.asked == [("encode", "document", texts, "retrieval")]


def test_role_and_task_reach_the_server(client, memory):
    client().embeddings.create(model="care-mini", input="头痛", extra_body={"task": "sts"})
    assert memory.asked == [("encode", "query", ["头痛"], "sts")]


def test_fewer_dimensions_are_the_first_ones_where_the_model_normalises_before_it_slices(client, memory):
    answer = client().embeddings.create(model="care-mini", input="头痛", dimensions=3)
    assert np.float32(answer.data[0].embedding).tolist() == memory.vectors("query", ["头痛"])[0, :3].tolist()


def test_fewer_dimensions_are_refused_where_a_part_of_a_vector_is_no_vector(client, memory):
    memory.order = "slice-then-normalize"
    asking = client()
    with pytest.raises(openai.BadRequestError, match="normalises after slicing"):
        asking.embeddings.create(model="care-mini", input="头痛", dimensions=3)
    assert len(asking.embeddings.create(model="care-mini", input="头痛", dimensions=8).data[0].embedding) == 8


def test_errors_arrive_as_the_client_s_own(client, memory):
    asking = client(tokens=(TOKEN,), max_body=2000)
    with pytest.raises(openai.NotFoundError) as error:
        asking.embeddings.create(model="text-embedding-3-small", input="头痛")
    assert error.value.code == "model_not_found"
    assert error.value.param == "model"
    assert error.value.request_id == error.value.response.headers["x-request-id"]
    with pytest.raises(openai.BadRequestError, match="token ids"):
        asking.embeddings.create(model="care-mini", input=[[1, 2, 3]])
    with pytest.raises(openai.APIStatusError, match="2000 bytes") as error:
        asking.embeddings.create(model="care-mini", input="x" * 3000)
    assert error.value.status_code == 413
    with pytest.raises(openai.AuthenticationError):
        asking.with_options(api_key="wrong").models.list()
    memory.fault = ServerError("UNAVAILABLE", "its queue is full")
    with pytest.raises(openai.InternalServerError) as error:
        asking.embeddings.create(model="care-mini", input="头痛")
    assert error.value.status_code == 503


def test_what_is_served_is_listed_and_found_by_its_name(client):
    asking = client()
    listed = {model.id: list(model.roles) for model in asking.models.list().data}
    assert listed == {
        "care-mini": ["query", "document"],
        "care-mini-query": ["query"],
        "care-mini-document": ["document"],
    }
    assert asking.models.retrieve("care-mini").roles["document"]["dimensions"] == 8
    assert asking.models.retrieve("care-mini-document").id == "care-mini-document"
    with pytest.raises(openai.NotFoundError):
        asking.models.retrieve("another")


def test_a_bearer_token_is_the_client_s_api_key(client):
    assert client(tokens=("another-token-of-a-tenant", TOKEN)).models.list().data
