"""The description of the gateway is that of the gateway that gives it."""

import ast
import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import care_accel.serving.gateway
from care_accel.encoding.runtimes.attempts import ServerError
from care_accel.serving.gateway import Settings, schemas
from care_accel.serving.gateway.app import create_app
from care_accel.serving.gateway.errors import CODES
from care_accel.serving.gateway.openapi.description import describe

from ..json_schema import problems, resolved

TOKEN, WRITE = "0123456789abcdef-read", "0123456789abcdef-write"


class Documents:
    """Stands where the store of a collection does."""

    def __init__(self, writable):
        self.writable, self.waiting = writable, 0


def operations(description):
    return [
        (method, path, operation)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]


@pytest.mark.parametrize("store", [None, Documents(writable=False), Documents(writable=True)])
def test_every_route_is_described_and_nothing_else(memory, store):
    routes = create_app(Settings(), memory, documents=store)._app._app.routes
    served = {
        (re.sub(r":\w+}", "}", route.path), method.lower())
        for route in routes
        if route.include_in_schema
        for method in route.methods - {"HEAD"}
    }
    description = describe(Settings(), collection=store is not None, writable=bool(store and store.writable))
    assert {(path, method) for method, path, _ in operations(description)} == served


@pytest.mark.parametrize(
    ("options", "rights"),
    [
        ({}, {}),
        ({"rate": 0.0}, {"collection": True}),
        ({"tokens": (TOKEN,), "write_tokens": (WRITE,)}, {"collection": True, "writable": True}),
    ],
)
def test_the_description_is_whole(options, rights):
    whole = describe(Settings(**options), **rights)
    assert json.loads(json.dumps(whole)) == whole
    assert whole["openapi"] == "3.1.0"
    used = set(re.findall(r'"\$ref": "#/components/(\w+/[\w-]+)"', json.dumps(whole)))
    parts = whole["components"]
    assert used == {
        f"{kind}/{name}"
        for kind in ("schemas", "responses", "headers")
        for name in parts[kind]
        if kind != "headers" or f"headers/{name}" in used
    }
    names = [one["operationId"] for _, _, one in operations(whole)]
    assert len(set(names)) == len(names)
    assert {tag["name"] for tag in whole["tags"]} == {
        tag for *_, one in operations(whole) for tag in one["tags"]
    }
    for _, path, one in operations(whole):
        assert re.findall(r"{(\w+)}", path) == [parameter["name"] for parameter in one.get("parameters", ())]
        assert all(name in parts["securitySchemes"] for right in one["security"] for name in right)
        assert ("429" in one["responses"]) == (path.startswith("/v1/") and options.get("rate") != 0)
        for content in one.get("requestBody", {"content": {}})["content"].values():
            for example in content.get("examples", {}).values():
                assert problems(example["value"], content["schema"], whole) == []


def test_a_token_is_asked_for_where_the_gateway_asks_for_one(gateway):
    client = gateway(tokens=(TOKEN,))
    whole = client.get("/openapi.json").json()
    for method, path, one in operations(whole):
        status = client.request(method, re.sub("{.*}", "x", path)).status_code
        assert (status == 401) == bool(one["security"]) == ("401" in one["responses"]), path


def test_the_gateway_s_own_limits_are_in_the_schemas(gateway):
    client = gateway(max_inputs=3, max_k=7)
    found = client.get("/openapi.json").json()["components"]["schemas"]
    assert found["EmbeddingRequest"]["properties"]["input"]["anyOf"][1]["maxItems"] == 3
    assert found["SearchRequest"]["properties"]["k"]["maximum"] == 7


def test_fields_of_requests_are_those_that_are_read():
    found = describe(Settings(), collection=True, writable=True)["components"]["schemas"]
    for name, known in (
        ("EmbeddingRequest", schemas.EMBEDDING_FIELDS),
        ("SearchRequest", schemas.SEARCH_FIELDS),
        ("RerankRequest", schemas.RERANK_FIELDS),
        ("DeleteRequest", schemas.DELETE_FIELDS),
    ):
        assert set(found[name]["properties"]) == set(known)


def requests_of(whole):
    """Return every example as method, path and body; without a body one, for a route that has none."""
    for method, path, one in operations(whole):
        examples = one.get("requestBody", {"content": {"application/json": {}}})["content"][
            "application/json"
        ].get("examples", {"": {"value": None}})
        for example in examples.values():
            yield method, path.replace("{model}", "care-mini"), one, example["value"]


def test_examples_are_answered_as_the_description_says(gateway, memory):
    memory.documents = ["低盐饮食。", {"title": "糖尿病", "text": "监测血糖。"}, None]
    client = gateway()
    whole = client.get("/openapi.json").json()
    asked = 0
    for method, path, one, value in requests_of(whole):
        answer = client.request(method, path, json=value)
        assert answer.status_code == 200, (path, answer.text)
        (kind, content), *_ = one["responses"]["200"]["content"].items()
        assert answer.headers["content-type"].startswith(kind)
        if kind == "application/json":
            assert problems(answer.json(), content["schema"], whole) == []
        asked += 1
    assert asked == 7 + 2 + 7


@pytest.mark.parametrize(
    "fault", ["INVALID_ARGUMENT", "UNAVAILABLE", "NOT_FOUND", "INTERNAL", "DEADLINE_EXCEEDED"]
)
def test_errors_are_those_that_the_description_says(gateway, memory, fault):
    client = gateway()
    whole = client.get("/openapi.json").json()
    memory.fault = ServerError(fault, "words")
    memory.alive = False
    failed = 0
    for method, path, one, value in requests_of(whole):
        for body in (value, {"model": 1}):
            answer = client.request(method, path, json=body)
            if answer.status_code == 200:
                continue
            failed += 1
            said = resolved(one["responses"][str(answer.status_code)], whole)
            assert problems(answer.json(), said["content"]["application/json"]["schema"], whole) == []
            assert answer.headers.keys() >= {name.lower() for name in said["headers"]} - {"retry-after"}
    assert failed >= 10


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "input": st.sampled_from(["a", "", ["a", ""], [], ["a"] * 5, [1], 2.5, None]),
        "query": st.sampled_from(["a", "", ["a"], [], None, 3]),
        "documents": st.sampled_from(
            [["a", {"text": "b", "x": 1}], [], [{"title": "c"}], "a", ["a"] * 5, [None]]
        ),
        "model": st.sampled_from(["care-mini", "care-mini-document", None, 1]),
        "input_type": st.sampled_from(["query", "document", "passage", None]),
        "task": st.sampled_from(["sts", "chat", None, 0]),
        "k": st.sampled_from([1, 0, 1001, True, None, "1"]),
        "top_n": st.sampled_from([1, 0, 99, True, None]),
        "dimensions": st.sampled_from([1, 8, 0, 9, None]),
        "return_documents": st.sampled_from([True, None, 0]),
        "filter": st.sampled_from(["a = 1", "", None, 1]),
        "encoding_format": st.sampled_from(["base64", "hex", None]),
        "user": st.sampled_from(["u", None]),
    },
)


@pytest.fixture(scope="module")
def limited():
    return describe(Settings(max_inputs=4))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(["/v1/embeddings", "/v1/search", "/v1/rerank"]), fields=FIELDS)
def test_what_is_taken_fits_the_schema(asking, limited, path, fields):
    content = limited["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    known = resolved(content["schema"], limited)["properties"]
    body = {name: value for name, value in fields.items() if name in known}
    assume(body)
    answer = asking.post(path, json=body)
    wrong = problems(body, content["schema"], limited)
    assert answer.status_code == 400 if wrong else answer.status_code in (200, 400, 404), (wrong, answer.text)


@pytest.fixture
def asking(gateway):
    return gateway(max_inputs=4)


def raised_codes():
    """Return every code that some code of the gateway writes out."""
    found = set()
    for file in Path(care_accel.serving.gateway.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
                continue
            place = {"ApiError": 1, "invalid": 2}.get(call.func.id)
            if place is None:
                continue
            given = [one.value for one in call.keywords if one.arg == "code"] or call.args[place : place + 1]
            for one in given:
                found |= {
                    leaf.value
                    for leaf in ast.walk(one)
                    if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)
                }
    return found


def test_every_code_of_an_error_is_known_and_used():
    assert raised_codes() | {"invalid_value", "not_served"} == set(CODES)  # a default, and a constant


def test_no_code_is_read_from_a_made_up_place():
    assert {"model_not_found", "missing", "both", "invalid_json", "overloaded"} <= raised_codes()
