"""The gateway's routes in OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from care_accel.serving.gateway.openapi.components import (
    ERRORS,
    HEADERS,
    Schema,
    document_schemas,
    error_responses,
    ref,
    request_schemas,
    response_schemas,
)
from care_accel.serving.gateway.settings import Settings
from care_accel.version import __version__

JSON = "application/json"
_READ, _WRITE = "token", "writeToken"

# Errors by what a route does.
_ANY = (400, 500)
_BODY = (408, 413, 415, 503)
_SERVER = (404, 502, 503, 504)


def describe(settings: Settings, *, collection: bool = False, writable: bool = False) -> dict[str, Any]:
    """Return the description of a gateway as a JSON object.

    Parameters
    ----------
    settings : Settings
        Its limits are in the schemas, and whether a token is required.
    collection : bool
        Whether documents can be read.
    writable : bool
        Whether they can be written.
    """
    paths = _Paths(settings)
    _encoding_paths(paths)
    if collection:
        _document_paths(paths, writable=writable)
    _operation_paths(paths)
    schemas = request_schemas(settings) | response_schemas()
    if collection:
        documents = document_schemas(settings)
        schemas |= documents if writable else {name: documents[name] for name in ("Document", "Fields")}
    tags = {
        "Texts": "Embeddings, search and reranking.",
        "Models": "What is served.",
        "Documents": "Those of the served collection.",
        "Operation": "Probes, metrics and pages; no token is needed, except for `/metrics`.",
    }
    schemes = {
        _READ: {"type": "http", "scheme": "bearer", "description": "A token for reading."},
        _WRITE: {"type": "http", "scheme": "bearer", "description": "A token that may write too."},
    }
    used = {name for operation in paths.operations() for one in operation["security"] for name in one}
    statuses = {status for operation in paths.operations() for status in operation["responses"]}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "care_accel gateway",
            "version": __version__,
            "summary": "Embeddings, search and reranking with two encoders: one of queries, one of documents.",
            "description": (
                "Embeddings are compatible with OpenAI's API, reranking with Cohere's. Errors have OpenAI's format. Every "
                "response has an `X-Request-ID`; one that is sent is kept. Unknown fields are refused."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "./"}],
        "tags": [
            {"name": name, "description": text}
            for name, text in tags.items()
            if any(name in operation["tags"] for operation in paths.operations())
        ],
        "paths": paths.values,
        "components": {
            "schemas": schemas,
            "responses": {
                name: value
                for name, value in error_responses().items()
                if any(ERRORS[int(status)][0] == name for status in statuses if status != "200")
            },
            "headers": HEADERS,
            "securitySchemes": {name: scheme for name, scheme in schemes.items() if name in used},
        },
    }


class _Paths:
    """Collects operations."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.values: dict[str, dict[str, Any]] = {}

    def operations(self) -> Iterable[dict[str, Any]]:
        return [operation for path in self.values.values() for operation in path.values()]

    def add(
        self,
        method: str,
        path: str,
        name: str,
        tag: str,
        summary: str,
        answer: str | Schema,
        *,
        errors: Iterable[int] = (),
        body: dict[str, Any] | None = None,
        parameter: str | None = None,
        token: str | None = _READ,
        text: str = "",
    ) -> None:
        """Add an operation; ``answer`` is the name of a schema, or the content of the response by media type."""
        accepted = [_WRITE] if token == _WRITE else []
        if token == _READ and self._settings.tokens:
            accepted = [_READ, *([_WRITE] if self._settings.write_tokens else [])]
        statuses = {*errors, *_ANY}
        if accepted:
            statuses |= {401, 403} if token == _WRITE else {401}
        if self._settings.rate and path.startswith("/v1/"):
            statuses.add(429)
        operation: dict[str, Any] = {
            "operationId": name,
            "tags": [tag],
            "summary": summary,
            "security": [{name: []} for name in accepted],
            "responses": {
                "200": {
                    "description": "Success.",
                    "headers": {"X-Request-ID": ref("X-Request-ID", "headers")},
                    "content": {JSON: {"schema": ref(answer)}} if isinstance(answer, str) else answer,
                },
                **{str(status): ref(ERRORS[status][0], "responses") for status in sorted(statuses)},
            },
        }
        if text:
            operation["description"] = text
        if parameter is not None:
            operation["parameters"] = [
                {
                    "name": parameter,
                    "in": "path",
                    "required": True,
                    "schema": {"type": "string"},
                    "description": "Percent-encoded: `a/1` is `a%2F1`.",
                }
            ]
        if body is not None:
            operation["requestBody"] = {"required": True, "content": body}
        self.values.setdefault(path, {})[method] = operation


def _json(name: str, **examples: Any) -> dict[str, Any]:
    return {
        JSON: {
            "schema": ref(name),
            "examples": {key: {"value": value} for key, value in examples.items()},
        }
    }


def _encoding_paths(paths: _Paths) -> None:
    paths.add(
        "post",
        "/v1/embeddings",
        "createEmbeddings",
        "Texts",
        "Vectors of texts",
        "Embeddings",
        errors=(*_BODY, *_SERVER),
        body=_json(
            "EmbeddingRequest",
            query={"model": "care-mini-query", "input": "高血压怎么治"},
            documents={"model": "care-mini-document", "input": ["高血压患者应低盐饮食。", "多喝水。"]},
            base64={
                "model": "care-mini",
                "input": ["多喝水。"],
                "input_type": "document",
                "encoding_format": "base64",
            },
        ),
        text=(
            "Documents and queries have encoders of their own: name `NAME-document` for documents, or send `input_type`. A "
            "document that is embedded as a query finds nothing. More than 256 texts are sent to the inference server in "
            "pieces; the request succeeds or fails as a whole."
        ),
    )
    paths.add(
        "post",
        "/v1/search",
        "search",
        "Texts",
        "The best documents of the served index",
        "SearchResults",
        errors=(*_BODY, *_SERVER),
        body=_json(
            "SearchRequest", one={"query": "高血压怎么治", "k": 3}, several={"query": ["头痛", "发热"]}
        ),
    )
    paths.add(
        "post",
        "/v1/rerank",
        "rerank",
        "Texts",
        "Given documents by their scores for a query",
        "RerankResults",
        errors=(*_BODY, *_SERVER),
        body=_json(
            "RerankRequest",
            texts={"query": "高血压怎么治", "documents": ["多喝水。", "低盐饮食。"], "top_n": 1},
            objects={
                "query": "高血压怎么治",
                "documents": [{"title": "高血压", "text": "低盐饮食。"}, "多喝水。"],
                "return_documents": True,
            },
        ),
        text=(
            "A score is the inner product of the vectors of the query encoder and the document encoder, with the prompts of "
            "reranking tasks. It is not a probability: compare scores of one query only."
        ),
    )
    paths.add("get", "/v1/models", "listModels", "Models", "All names", "Models", errors=(502, 503, 504))
    paths.add(
        "get",
        "/v1/models/{model}",
        "getModel",
        "Models",
        "One name",
        "Model",
        errors=_SERVER,
        parameter="model",
    )


def _document_paths(paths: _Paths, *, writable: bool) -> None:
    paths.add(
        "get",
        "/v1/fields",
        "listFields",
        "Documents",
        "Names, types and values of fields",
        "Fields",
        errors=(503,),
    )
    paths.add(
        "get",
        "/v1/documents/{id}",
        "getDocument",
        "Documents",
        "One document",
        "Document",
        errors=(404, 503),
        parameter="id",
    )
    if not writable:
        return
    lines = {"schema": {"type": "string", "description": "A document a line."}}
    paths.add(
        "put",
        "/v1/documents",
        "putDocuments",
        "Documents",
        "Insert or replace documents",
        "Written",
        errors=(*_BODY, 409, 502, 504),
        token=_WRITE,
        body=_json(
            "Documents",
            one={"documents": [{"id": "a6", "text": "过敏性鼻炎要避开过敏原。", "department": "耳鼻喉科"}]},
        )
        | {"application/x-ndjson": lines, "application/jsonl": lines},
        text="All documents are checked first; the answer comes after the commit.",
    )
    paths.add(
        "delete",
        "/v1/documents",
        "deleteDocuments",
        "Documents",
        "Delete documents",
        "Deleted",
        errors=(*_BODY, 409, 502, 504),
        token=_WRITE,
        body=_json("DeleteRequest", ids={"ids": ["a6"]}, filter={"filter": "department = '耳鼻喉科'"}),
    )


def _operation_paths(paths: _Paths) -> None:
    def page(kind: str) -> Schema:
        return {kind: {"schema": {"type": "string"}}}

    for path, name, summary, answer, errors in (
        ("/healthz", "isAlive", "The gateway is alive", "Status", ()),
        ("/readyz", "isReady", "The inference server is ready", "Status", (503,)),
        ("/page/settings", "getPageSettings", "What the demo page needs to know", "PageSettings", ()),
        ("/openapi.json", "getDescription", "This description", {JSON: {"schema": {"type": "object"}}}, ()),
        ("/docs", "showDescription", "This description as a page", page("text/html"), ()),
        ("/", "showDemo", "The demo page", page("text/html"), ()),
    ):
        paths.add("get", path, name, "Operation", summary, answer, errors=errors, token=None)
    paths.add(
        "get", "/metrics", "getMetrics", "Operation", "Metrics in Prometheus's format", page("text/plain")
    )
