"""Documents over HTTP: what is read and written, and by whom."""

import json
import logging
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import quote

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from care_accel import Collection

from .quick import READ, WRITE

NEW = {"id": "n1", "text": "骨折后应固定患肢。", "department": "外科", "year": 2024}


def put(client, *rows, **options):
    return client.put("/v1/documents", json={"documents": list(rows)}, **options)


def delete(client, **fields):
    return client.request("DELETE", "/v1/documents", json=fields)


def code(answer):
    return answer.status_code, answer.json()["error"]["code"]


def bearer(token):
    return {"authorization": f"Bearer {token}"}


def test_documents_are_new_changed_or_the_same_and_are_there_when_the_answer_is(gateway, now, quick):
    client, before = gateway(), now()
    changed = {**before["a1"], "text": "低盐饮食，规律服药。"}
    answer = put(client, NEW, changed, before["a/2 ü"]).json()
    version = answer.pop("version")
    assert answer == {"new": 1, "changed": 1, "same": 1}
    assert quick.encoded == [NEW["text"], "高血压 低盐饮食，规律服药。"]
    assert now() == {**before, "a1": changed, "n1": {"title": "", "day": None, **NEW}}
    assert put(client, NEW).json() == {"new": 0, "changed": 0, "same": 1, "version": version}


def test_json_lines_are_taken_as_well(gateway, now):
    lines = "\n\n".join(json.dumps({"id": number, "text": f"第{number}条"}) for number in range(5)) + "\r\n"
    for kind in ("application/x-ndjson", "application/jsonl; charset=utf-8"):
        answer = gateway().put("/v1/documents", content=lines.encode(), headers={"content-type": kind})
        assert answer.status_code == 200
    assert answer.json()["same"] == 5
    assert {"0", "4"} <= now().keys()


def test_a_document_that_was_read_is_the_same_when_it_is_sent_back(gateway):
    client = gateway()
    assert put(client, {**NEW, "day": "2024-02-29"}).status_code == 200
    found = client.get("/v1/documents/n1", headers=bearer(READ)).json()
    assert found == {"title": "", "day": "2024-02-29", **NEW}
    assert put(client, found).json()["same"] == 1


@pytest.mark.parametrize("name", ["a1", "a/2 ü", "../x", "a?b#c", "line\nend\n", "'; --", "号"])
def test_ids_are_percent_encoded_in_an_address(gateway, name):
    client = gateway()
    assert put(client, {"id": name, "text": "x"}).status_code == 200
    assert client.get(f"/v1/documents/{quote(name, safe='')}").json()["id"] == name


def test_an_id_that_is_not_there_is_not_found(gateway):
    answer = gateway(writable=False).get("/v1/documents/a2")
    assert code(answer) == (404, "document_not_found")
    assert "\n" not in answer.json()["error"]["message"]


def test_documents_are_deleted_by_ids_or_by_a_filter(gateway, now):
    client = gateway()
    put(client, NEW, {"id": 7, "text": "x", "year": 2000})
    assert delete(client, ids=["a1", "absent", 7]).json()["deleted"] == 2
    assert delete(client, filter="year >= 2024").json()["deleted"] == 1
    assert now().keys() == {"a/2 ü"}
    assert delete(client, ids=[]).json()["deleted"] == 0


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([NEW, {"id": "x"}], r"documents[1] (id 'x'): the text is missing"),
        ([NEW, {"text": "x"}], "documents[1]: the id is missing"),
        ([NEW, {"id": "", "text": "x"}], "documents[1]: the id is empty"),
        ([NEW, "x"], "documents[1] is a str"),
        ([NEW, None], "documents[1] is a NoneType"),
        ([NEW, {"id": "x", "text": 1}], "the text is a int"),
        ([NEW, {"id": "x", "text": "x", "year": "2024"}], "field 'year' is a text ('2024')"),
        ([NEW, {"id": "x", "text": "x", "_chunk": 1}], "begins with an underscore"),
        ([NEW, {"id": "x", "text": "x", "more": {"a": 1}}], "field 'more' is a dict"),
        ([NEW, {"id": "x", "text": "x", "day": "29.2.2024"}], "field 'day' is a text ('29.2.2024')"),
        ([NEW, {"id": "x", "text": "痛" * 40_000}], "documents[1] has 120000 bytes"),
        ([], "there is no document"),
        ([NEW] * 6, "there are 6 documents; the maximum per request is 5"),
        ({"id": "x"}, "'documents' must be a list"),
    ],
)
def test_with_one_wrong_row_nothing_is_written_and_the_row_is_named(gateway, now, quick, rows, words):
    before = now()
    answer = gateway(max_documents=5).put("/v1/documents", json={"documents": rows})
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]
    assert now() == before
    assert quick.encoded == []


def test_a_line_that_is_wrong_is_named_by_its_number(gateway, now):
    before = now()
    for lines, words in (
        (b'{"id": "x", "text": "x"}\n\n{"id": "y"', "line 3 is not valid JSON"),
        (b'{"id": "x", "text": "x"}\n\n{"id": "y"}', "line 3 (id 'y'): the text is missing"),
        (b"[1]", "line 1 must be a JSON object"),
        (b'{"id": "x", "text": "x"}\n\xff', "line 2 is not UTF-8"),
        (b"\n", "there is no document"),
    ):
        answer = gateway().put("/v1/documents", content=lines, headers={"content-type": "application/jsonl"})
        assert answer.status_code == 400
        assert words in answer.json()["error"]["message"]
    assert now() == before


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "send 'ids' or 'filter'"),
        ({"ids": ["a1"], "filter": "year = 1"}, "one of them"),
        ({"ids": "a1"}, "'ids' must be a list"),
        ({"ids": ["a1", ""]}, "'ids'[1] must be a string"),
        ({"ids": ["a1", True]}, "'ids'[1] must be a string"),
        ({"ids": list(range(1001))}, "maximum per request is 1000"),
        ({"filter": " "}, "'filter' is empty"),
        ({"filter": 1}, "'filter' must be a string"),
        ({"filter": "x" * 20_000}, "maximum is 10000"),
        ({"filter": "yeer = 2021"}, "the fields are id (a text)"),
        ({"filter": "year = 2021) OR (true"}, "parentheses"),
        ({"filters": "true"}, "unknown field"),
    ],
)
def test_a_deletion_that_is_wrong_deletes_nothing(gateway, now, fields, words):
    before = now()
    answer = gateway().request("DELETE", "/v1/documents", json=fields)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]
    assert "\n" not in answer.json()["error"]["message"]
    assert now() == before


def test_bodies_have_the_gateway_s_limits(gateway, now):
    before = now()
    client = gateway(max_body=1000)
    assert code(put(client, {"id": "x", "text": "痛" * 1000})) == (413, "body_too_long")
    answer = client.put("/v1/documents", content=b"{}", headers={"content-type": "text/plain"})
    assert code(answer) == (415, "unsupported_media_type")
    assert now() == before


def test_nothing_can_be_written_where_it_is_not_allowed_to(gateway, now):
    before = now()
    client = gateway(writable=False)
    assert code(put(client, NEW)) == code(delete(client, ids=["a1"])) == (404, "unknown_url")
    assert client.put("/v1/documents/a1", json=NEW).status_code == 405
    assert client.get("/v1/documents/a1").status_code == 200
    assert now() == before


METHODS = st.sampled_from(["PUT", "DELETE", "POST", "PATCH"])
PATHS = st.sampled_from(
    [
        "/v1/documents",
        "/v1/documents/",
        "/v1/documents/a1",
        "//v1/documents",
        "/v1/Documents",
        "/v1/./documents",
    ]
)
TOKENS = st.sampled_from(
    [None, "", READ, WRITE[:-1], WRITE + "x", WRITE.upper(), "Bearer", f"{READ} {WRITE}"]
) | st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30).filter(lambda one: one != WRITE)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=METHODS, path=PATHS, token=TOKENS, body=st.sampled_from([{"documents": [NEW]}, {"ids": ["a1"]}])
)
def test_without_the_write_token_nothing_is_written(shared, method, path, token, body):
    client, version, before = shared
    headers = {"authorization": "" if token is None else f"Bearer {token}"}
    answer = client.request(method, path, json=body, headers=headers)
    assert answer.status_code in (401, 403, 404, 405)
    assert (answer.status_code == 403) <= (token == READ)
    assert version() == before


@pytest.fixture
def shared(gateway, folder):
    """Return one client for all examples of a property, and the collection's version."""
    collection = Collection.open(folder)
    return gateway(), lambda: (collection.refresh(), collection.version)[1], collection.version


def test_the_write_token_is_required_even_where_reading_needs_none(gateway, now):
    client = gateway(tokens=())
    client.headers.pop("authorization")
    assert client.get("/v1/documents/a1").status_code == 200
    assert code(put(client, NEW)) == (401, "invalid_token")
    assert put(client, NEW, headers=bearer(WRITE)).status_code == 200
    assert "n1" in now()


def test_a_token_for_writing_reads_and_one_for_reading_does_not_write(gateway):
    client = gateway()
    for path in ("/v1/documents/a1", "/v1/fields", "/v1/models", "/metrics"):
        assert client.get(path, headers=bearer(WRITE)).status_code == 200
        assert client.get(path, headers=bearer(READ)).status_code == 200
        assert client.get(path, headers=bearer("wrong")).status_code == 401
    assert code(put(client, NEW, headers=bearer(READ))) == (403, "write_token_required")


def test_writes_are_limited_in_their_rate_like_the_rest(gateway):
    client = gateway(rate=0.001, burst=2)
    assert [put(client, NEW).status_code for _ in range(3)] == [200, 200, 429]


def test_two_who_write_at_once_lose_nothing(gateway, now):
    client, answers = gateway(), []

    def write(name):
        for number in range(6):
            row = {"id": f"{name}{number}", "text": f"{name}第{number}条", name: number}
            answers.append(put(client, row, {"id": "both", "text": name}))

    threads = [threading.Thread(target=write, args=(name,)) for name in ("x", "y")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["version"] for answer in answers}) == 12, "one commit each"
    assert sum(answer.json()["new"] for answer in answers) == 13
    assert {f"{name}{number}" for name in "xy" for number in range(6)} | {"both"} <= now().keys()
    assert now()["x5"]["x"] == 5


def test_fields_come_with_their_values_where_these_are_few(gateway, monkeypatch):
    client = gateway()
    put(client, {"id": "n1", "text": "x", "department": "儿科"})
    fields = {one["name"]: one for one in client.get("/v1/fields").json()["fields"]}
    assert fields["department"] == {
        "name": "department",
        "type": "a text",
        "values": [{"value": "儿科", "documents": 2}, {"value": "内科", "documents": 1}],
    }
    assert fields["year"] == {"name": "year", "type": "an integer"}
    delete(client, ids=["a1"])
    assert len(client.get("/v1/fields").json()["fields"][1]["values"]) == 2, "counted at most every 30 s"
    monkeypatch.setattr("care_accel.serving.gateway.documents.store._FIELDS_TTL_S", -1.0)
    assert len(client.get("/v1/fields").json()["fields"][1]["values"]) == 1


def test_no_words_of_documents_are_logged_and_writes_are_counted(gateway, caplog, as_lines, quick):
    secret = "艾滋病检测"
    client = gateway(log_texts=True)
    caplog.set_level(logging.DEBUG, "care_accel")
    put(client, {"id": secret, "text": secret, "field": secret}, {"id": secret, "text": secret * 2})
    put(client, {"id": secret, "text": secret, "year": secret})
    client.get(f"/v1/documents/{secret}")
    delete(client, filter=f"text = '{secret}'")
    delete(client, filter=f"{secret} = 1")
    delete(client, ids=[secret])
    quick.fault = RuntimeError(secret)
    assert code(put(client, {"id": secret, "text": secret})) == (500, "internal_error")
    lines = as_lines(r for r in caplog.records if r.name.startswith("care_accel"))
    assert "PUT /v1/documents 200" in lines
    assert "GET /v1/documents/{id} 200" in lines
    assert "caller=write1@" in lines
    assert secret not in lines
    assert "%E8%89" not in lines
    metrics = client.get("/metrics").text
    assert secret not in metrics
    assert 'care_gateway_documents_total{outcome="new"} 1.0' in metrics
    assert 'care_gateway_documents_total{outcome="deleted"} 1.0' in metrics
    assert 'care_gateway_requests_total{method="PUT",route="/v1/documents",status="200"} 1.0' in metrics
    assert "care_gateway_writes_waiting 0.0" in metrics


PROCESS = """
import sys
sys.path.insert(0, sys.argv[1])
from quick import Quick
from care_accel.cli import main
from care_accel.serving.gateway.documents import encoder
encoder.SteadyDualEncoder = lambda client: Quick()
sys.exit(main(["gateway", "--port", "0", "--writable", "--collection", sys.argv[2]]))
"""


def test_a_killed_gateway_has_lost_nothing_that_it_answered(folder, now, monkeypatch):
    monkeypatch.setenv("CARE_GATEWAY_WRITE_TOKEN", WRITE)
    monkeypatch.delenv("CARE_GATEWAY_TOKEN", raising=False)
    command = [sys.executable, "-c", PROCESS, str(Path(__file__).parent), str(folder)]
    written = {f"a/%2F {number}" for number in range(3)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            lines = [process.stdout.readline() for _ in range(3)]
            assert lines[2].startswith("documents: ")
            address = lines[0].split()[1] + "v1/documents"
            for name in written:
                body = {"documents": [{"id": name, "text": name}]}
                answer = httpx2.put(address, json=body, headers=bearer(WRITE), timeout=20)
                assert answer.status_code == 200, answer.text
                # A test client decodes addresses twice, a server once.
                found = httpx2.get(f"{address}/{quote(name, safe='')}", timeout=20)
                assert found.json()["id"] == name
        finally:
            process.kill()
    assert written <= now().keys()
