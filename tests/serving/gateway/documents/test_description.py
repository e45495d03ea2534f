"""The description of routes of documents: requests and answers are as it says."""

from ..json_schema import problems


def test_examples_and_reading_are_answered_as_the_description_says(gateway):
    client = gateway()
    whole = client.get("/openapi.json").json()
    for method in ("put", "delete"):
        operation = whole["paths"]["/v1/documents"][method]
        for example in operation["requestBody"]["content"]["application/json"]["examples"].values():
            answer = client.request(method, "/v1/documents", json=example["value"])
            assert answer.status_code == 200, answer.text
            schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
            assert problems(answer.json(), schema, whole) == []
    for path, described in (("/v1/documents/a1", "/v1/documents/{id}"), ("/v1/fields", "/v1/fields")):
        schema = whole["paths"][described]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert problems(client.get(path).json(), schema, whole) == []


def test_errors_of_writing_are_described(gateway):
    client = gateway(max_documents=1)
    whole = client.get("/openapi.json").json()
    schema = whole["components"]["schemas"]["Error"]
    for body, status in (({"documents": [{"id": "x"}]}, 400), ({"documents": [{}, {}]}, 400)):
        answer = client.put("/v1/documents", json=body)
        assert answer.status_code == status
        assert problems(answer.json(), schema, whole) == []
    read = gateway(writable=False).get("/openapi.json").json()
    assert "/v1/documents" not in read["paths"]
    assert "/v1/documents/{id}" in read["paths"]
