"""Schemas of requests and responses, and the responses of errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from care_accel.encoding.spec import ROLES, TASKS
from care_accel.serving.gateway import schemas
from care_accel.serving.gateway.errors import CODES, TYPES
from care_accel.serving.gateway.fields import MAX_FILTER
from care_accel.serving.gateway.settings import Settings

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_NUMBER: Schema = {"type": ["number", "null"]}  # JSON has no infinity: it is null
_ANY_OBJECT: Schema = {"type": "object", "additionalProperties": True}
_MODEL_NAME = (
    "NAME of the served model, `NAME-query` or `NAME-document`: the latter two also say the role, for clients that "
    "cannot send `input_type`."
)


def ref(name: str, kind: str = "schemas") -> Schema:
    """Return a reference to a component."""
    return {"$ref": f"#/components/{kind}/{name}"}


def _object(properties: Mapping[str, Schema], required: tuple[str, ...] | None = None) -> Schema:
    """Return the schema of an object of a response; all properties are required by default."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties if required is None else required),
    }


def _request(properties: Mapping[str, Schema], *required: str) -> Schema:
    return _object(properties, required) | {"additionalProperties": False}


def _list(items: Schema, **limits: Any) -> Schema:
    return {"type": "array", "items": items, **limits}


def _optional(kind: str, text: str, **limits: Any) -> Schema:
    return {"type": [kind, "null"], "description": text, **limits}


def _choice(values: tuple[str, ...], text: str, default: str | None = None) -> Schema:
    given = {} if default is None else {"default": default}
    return {"enum": [*values, None], "description": text, **given}


def _texts(text: str, settings: Settings) -> Schema:
    most = f"At most {settings.max_inputs} texts of at most {settings.max_text} bytes in UTF-8."
    return {
        "description": f"{text} {most}",
        "anyOf": [_TEXT, _list(_TEXT, minItems=1, maxItems=settings.max_inputs)],
    }


def _task() -> Schema:
    return _choice(TASKS, "What the texts are for; selects the model's prompt.", TASKS[0])


_USER = _optional("string", "Ignored; OpenAI's clients can send it.")
_USAGE = _object({"prompt_tokens": _COUNT, "total_tokens": _COUNT})


def request_schemas(settings: Settings) -> dict[str, Schema]:
    """Return the schemas of requests that search and encode."""
    condition = _optional(
        "string",
        "An expression over a collection's fields; only documents that it leaves are searched.",
        minLength=1,
        maxLength=MAX_FILTER,
    )
    document = {
        "anyOf": [
            _TEXT,
            {
                "type": "object",
                "properties": {"text": _TEXT, "title": _optional("string", "Goes before the text.")},
                "required": ["text"],
                "description": "Other properties are ignored, and returned.",
            },
        ]
    }
    return {
        "EmbeddingRequest": _request(
            {
                "input": _texts("A text or a list of texts; documents may be empty.", settings),
                "model": {"type": "string", "description": _MODEL_NAME},
                "input_type": _choice(
                    ROLES,
                    "The encoder: queries and documents have their own. By default what `model` says, else `query`. Must "
                    "agree with `model`.",
                ),
                "task": _task(),
                "dimensions": _optional(
                    "integer",
                    "Leading values of each vector; below the model's width only if it normalises before it slices.",
                    minimum=1,
                ),
                "encoding_format": _choice(
                    schemas.FORMATS, "`base64` is of little-endian float32.", schemas.FORMATS[0]
                ),
                "user": _USER,
            },
            "input",
            "model",
        ),
        "SearchRequest": _request(
            {
                "query": _texts("A query or a list of queries.", settings),
                "k": _optional(
                    "integer",
                    f"Hits per query; at most {settings.max_hits} hits per response.",
                    minimum=1,
                    maximum=settings.max_k,
                    default=schemas.DEFAULT_K,
                ),
                "filter": condition,
                "partial": _optional(
                    "boolean",
                    "Of a collection in shards: answer from the others while some are away, and say so.",
                    default=False,
                ),
                "model": _optional("string", "NAME or `NAME-query`."),
                "task": _task(),
                "user": _USER,
            },
            "query",
        ),
        "RerankRequest": _request(
            {
                "query": {"type": "string", "minLength": 1},
                "documents": _list(document, minItems=1, maxItems=settings.max_inputs),
                "top_n": _optional("integer", "Maximum results; by default all.", minimum=1),
                "return_documents": _optional(
                    "boolean", "Return each document with its score.", default=False
                ),
                "model": _optional("string", "NAME of the served model: both of its roles are used."),
                "user": _USER,
            },
            "query",
            "documents",
        ),
    }


def response_schemas() -> dict[str, Schema]:
    """Return the schemas of responses."""
    role = _object(
        {"dimensions": _COUNT, "order": _TEXT, "revision": _TEXT, "max_tokens": {"type": ["integer", "null"]}}
    )
    hit = _object(
        {
            "id": {
                "type": ["string", "integer"],
                "description": "The document's own id in a collection, else its position.",
            },
            "score": _NUMBER | {"description": "Inner product of the vectors."},
            "document": {"description": "What the index has of the document: a text, an object, or null."},
            "span": _list({"type": "integer"}, minItems=2, maxItems=2)
            | {"description": "Characters of the chunk that matched, in a collection that cuts chunks."},
        },
        ("id", "score", "document"),
    )
    hits = _object(
        {
            "object": {"const": "search.hits"},
            "index": _COUNT,
            "hits": _list(hit),
            "timings": _object(dict.fromkeys(("tokenise_us", "encode_us", "scan_us"), _NUMBER))
            | {"description": "Microseconds in the inference server, of the batch that had the query."},
            "partial": {"const": True, "description": "Not all shards of the collection answered."},
            "share": _NUMBER
            | {"description": "Of a partial answer: the share of the documents that was searched."},
        },
        ("object", "index", "hits", "timings"),
    )
    embedding = {
        "anyOf": [_list(_NUMBER), {"type": "string", "contentEncoding": "base64"}],
        "description": "Numbers, or base64 if asked for.",
    }
    result = _object(
        {
            "index": _COUNT | {"description": "Position in `documents`."},
            "relevance_score": _NUMBER | {"description": "Inner product of the vectors."},
            "document": _ANY_OBJECT,
        },
        ("index", "relevance_score"),
    )
    error = _object(
        {
            "message": {"type": "string", "description": "What is wrong and how to fix it; for people."},
            "type": {"enum": list(TYPES)},
            "param": {"type": ["string", "null"], "description": "The field that is wrong."},
            "code": {"enum": list(CODES), "description": "Stable; see the table of codes."},
        }
    )
    return {
        "Embeddings": _object(
            {
                "object": {"const": "list"},
                "data": _list(
                    _object({"object": {"const": "embedding"}, "index": _COUNT, "embedding": embedding})
                ),
                "model": _TEXT,
                "usage": _USAGE,
            }
        ),
        "SearchResults": _object(
            {
                "object": {"const": "list"},
                "data": _list(hits),
                "model": _TEXT,
                "usage": _USAGE,
                "timings": _object({"gateway_us": _NUMBER}),
            }
        ),
        "RerankResults": _object(
            {
                "id": {"type": "string", "description": "The request's id."},
                "results": _list(result) | {"description": "Best first; equal scores by smaller index."},
                "model": _TEXT,
                "usage": _USAGE,
            }
        ),
        "Model": _object(
            {
                "id": _TEXT,
                "object": {"const": "model"},
                "created": {"type": "integer", "description": "Unknown: 0."},
                "owned_by": _TEXT,
                "roles": {
                    "type": "object",
                    "propertyNames": {"enum": list(ROLES)},
                    "additionalProperties": role,
                    "description": "The encoders that this name can mean.",
                },
            }
        ),
        "Models": _object({"object": {"const": "list"}, "data": _list(ref("Model"))}),
        "Status": _object({"status": _TEXT}),
        "PageSettings": _object(
            {
                "token_required": {"type": "boolean"},
                "ready": {"type": "boolean"},
                "most_k": _COUNT,
                "collection": {"type": "boolean"},
                "version": _TEXT,
            }
        ),
        "Error": _object({"error": error}),
    }


def document_schemas(settings: Settings) -> dict[str, Schema]:
    """Return the schemas of a collection's documents."""
    row = _object({"id": {"type": ["string", "integer"]}, "text": _TEXT}, ("id", "text")) | {
        "description": "Other properties are fields: numbers, texts, booleans, lists of texts, dates in ISO 8601.",
        "additionalProperties": True,
    }
    row["properties"] |= {"title": _optional("string", "Goes before the text.")}
    value = _object({"value": _TEXT, "documents": _COUNT})
    field = _object({"name": _TEXT, "type": _TEXT, "values": _list(value)}, ("name", "type"))
    written = dict.fromkeys(("new", "changed", "same", "version"), _COUNT)
    ids = _optional("array", "Of the documents to delete.", maxItems=settings.max_documents)
    ids["items"] = {"type": ["string", "integer"]}
    condition = _optional(
        "string", "All documents that it leaves are deleted.", minLength=1, maxLength=MAX_FILTER
    )
    return {
        "Document": row,
        "Documents": _request(
            {"documents": _list(ref("Document"), minItems=1, maxItems=settings.max_documents)}, "documents"
        ),
        "DeleteRequest": _request({"ids": ids, "filter": condition})
        | {"oneOf": [{"required": ["ids"]}, {"required": ["filter"]}]},
        "Fields": _object({"object": {"const": "fields"}, "version": _COUNT, "fields": _list(field)}),
        "Written": _object(written),
        "Deleted": _object({"deleted": _COUNT, "version": _COUNT}),
    }


# Of each status: the component's name, what it means, and its own headers.
ERRORS: dict[int, tuple[str, str, tuple[str, ...]]] = {
    400: ("BadRequest", "A field is wrong, the server refuses a text, or the name in Host is unknown.", ()),
    401: ("Unauthorized", "The token is missing or wrong.", ("WWW-Authenticate",)),
    403: ("Forbidden", "The token may only read.", ()),
    404: ("NotFound", "There is no such model or document, or the server does not serve it.", ()),
    408: ("BodyTooSlow", "The body did not arrive in time.", ()),
    409: ("Conflict", "Other writers kept changing the same documents.", ("Retry-After",)),
    413: ("BodyTooLong", "The body is too large.", ()),
    415: ("UnsupportedMediaType", "The body has another media type, or is compressed.", ()),
    429: ("TooManyRequests", "The rate limit is exceeded.", ("Retry-After",)),
    500: ("InternalError", "The gateway failed.", ()),
    502: ("ServerFailed", "The inference server failed.", ()),
    503: (
        "Unavailable",
        "The server is away or overloaded, or too many requests are in work.",
        ("Retry-After",),
    ),
    504: ("ServerTooSlow", "The inference server timed out.", ()),
}


def error_responses() -> dict[str, Schema]:
    """Return the responses of errors, by name."""
    return {
        name: {
            "description": text,
            "headers": {header: ref(header, "headers") for header in ("X-Request-ID", *headers)},
            "content": {"application/json": {"schema": ref("Error")}},
        }
        for name, text, headers in ERRORS.values()
    }


HEADERS: dict[str, Schema] = {
    "X-Request-ID": {"description": "The request's id, as in the gateway's log.", "schema": _TEXT},
    "Retry-After": {"description": "Seconds after which to send it again.", "schema": _COUNT},
    "WWW-Authenticate": {"description": "`Bearer`.", "schema": _TEXT},
}
