"""Names of models that say the role, for clients that can send nothing else."""

import numpy as np
import pytest

from care_accel.encoding.runtimes.attempts import ServerError


def embed(client, model, text="头痛", **fields):
    return client.post("/v1/embeddings", json={"model": model, "input": text, **fields})


def error_of(answer):
    return answer.status_code, answer.json()["error"]["code"], answer.json()["error"]["message"]


@pytest.fixture
def only(memory, monkeypatch):
    """Return a function that leaves a server with one role."""
    describe = memory.describe

    def only_(role):
        async def one(asked, *, refresh=False):
            if asked != role:
                raise ServerError("NOT_FOUND", f"serves no model '{asked}_encoder'")
            return await describe(asked)

        monkeypatch.setattr(memory, "describe", one)

    return only_


@pytest.mark.parametrize(
    ("model", "input_type", "role"),
    [
        ("care-mini", None, "query"),
        ("care-mini", "query", "query"),
        ("care-mini", "document", "document"),
        ("care-mini-query", None, "query"),
        ("care-mini-query", "query", "query"),
        ("care-mini-document", None, "document"),
        ("care-mini-document", "document", "document"),
    ],
)
def test_the_name_or_the_input_type_says_the_role(gateway, memory, model, input_type, role):
    answer = embed(gateway(), model, input_type=input_type).json()
    assert np.float32(answer["data"][0]["embedding"]).tolist() == memory.vectors(role, ["头痛"])[0].tolist()
    assert answer["model"] == model
    assert memory.asked == [("encode", role, ["头痛"], "retrieval")]


@pytest.mark.parametrize(
    ("model", "input_type", "words"),
    [
        (
            "care-mini-document",
            "query",
            "'care-mini-document' encodes documents, and 'input_type' asks for queries",
        ),
        (
            "care-mini-query",
            "document",
            "'care-mini-query' encodes queries, and 'input_type' asks for documents",
        ),
    ],
)
def test_a_name_and_an_input_type_that_disagree_are_refused(gateway, memory, model, input_type, words):
    status, code, message = error_of(embed(gateway(), model, input_type=input_type))
    assert (status, code) == (400, "role_conflict")
    assert words in message
    assert f"use the model 'care-mini' or 'care-mini-{input_type}'" in message
    assert memory.asked == []


def test_only_documents_may_be_empty_whatever_says_that_they_are(gateway):
    client = gateway()
    assert embed(client, "care-mini-document", ["", "a"]).status_code == 200
    assert "'input'[1] is empty" in error_of(embed(client, "care-mini-query", ["a", ""]))[2]
    assert "'input' is empty" in error_of(embed(client, "care-mini", ""))[2]


def test_a_search_is_with_a_model_of_queries(gateway):
    client = gateway()
    for model in ("care-mini", "care-mini-query"):
        answer = client.post("/v1/search", json={"query": "头痛", "model": model})
        assert answer.json()["model"] == model
    status, code, message = error_of(
        client.post("/v1/search", json={"query": "头痛", "model": "care-mini-document"})
    )
    assert (status, code) == (400, "role_conflict")
    assert "a search asks for queries" in message


@pytest.mark.parametrize(
    "model", ["care", "care-mini-", "care-mini-documents", "-query", "other-document", ""]
)
def test_other_names_are_not_found_and_the_right_ones_are_said(gateway, model):
    status, code, message = error_of(embed(gateway(), model))
    assert (status, code) == (404, "model_not_found")
    assert "'care-mini', and 'care-mini-query' or 'care-mini-document'" in message


def test_a_model_whose_own_name_ends_like_a_role_keeps_its_name(gateway, memory):
    memory.name = "bert-query"
    client = gateway()
    assert embed(client, "bert-query", input_type="document").status_code == 200
    assert embed(client, "bert-query-document").status_code == 200
    assert embed(client, "bert-document").status_code == 404
    assert [one[1] for one in memory.asked] == ["document", "document"]


@pytest.mark.parametrize(("role", "other"), [("query", "document"), ("document", "query")])
def test_a_server_of_one_role_has_its_names_alone(gateway, only, role, other):
    only(role)
    client = gateway()
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == [
        "care-mini",
        f"care-mini-{role}",
    ]
    assert all(list(model["roles"]) == [role] for model in client.get("/v1/models").json()["data"])
    assert embed(client, f"care-mini-{role}").status_code == 200
    assert embed(client, "care-mini", input_type=role).status_code == 200
    assert embed(client, f"care-mini-{other}").status_code == 404
    assert error_of(embed(client, "care-mini", input_type=other))[:2] == (404, "not_served")
    assert client.get(f"/v1/models/care-mini-{other}").status_code == 404
