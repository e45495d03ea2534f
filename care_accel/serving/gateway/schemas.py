"""Request schemas and their validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from care_accel.encoding.spec import ROLES, TASKS, Role, Task
from care_accel.serving.gateway import fields
from care_accel.serving.gateway.errors import invalid
from care_accel.serving.gateway.settings import Settings

EMBEDDING_FIELDS = ("input", "model", "input_type", "task", "dimensions", "encoding_format", "user")
SEARCH_FIELDS = ("query", "k", "filter", "partial", "model", "task", "user")
RERANK_FIELDS = ("query", "documents", "top_n", "return_documents", "model", "user")
DELETE_FIELDS = ("ids", "filter")
FORMATS = ("float", "base64")
DEFAULT_K = 10


@dataclass(frozen=True)
class EmbeddingRequest:
    """Request of ``POST /v1/embeddings``; ``role`` is None if ``model`` alone says it."""

    texts: list[str]
    listed: bool
    model: str
    role: Role | None
    task: Task
    dimensions: int | None
    base64: bool

    @classmethod
    def read(cls, values: dict[str, Any], settings: Settings) -> EmbeddingRequest:
        """Check the fields.

        Raises
        ------
        ApiError
            400 for a field that is unknown, missing, of another type or beyond a limit.
        """
        fields.refuse_unknown(values, EMBEDDING_FIELDS)
        role = fields.choice(values, "input_type", ROLES)
        model = fields.text(values, "model")
        if model is None:
            raise invalid("'model' is missing; GET /v1/models lists the served models", "model", "missing")
        return cls(
            texts=fields.texts(values, "input", settings),
            listed=isinstance(values["input"], list),
            model=model,
            role=role,
            task=fields.choice(values, "task", TASKS) or TASKS[0],
            dimensions=fields.count(values, "dimensions"),
            base64=fields.choice(values, "encoding_format", FORMATS) == "base64",
        )

    def check_role(self, role: Role) -> None:
        """Check what depends on the role: only documents may be empty.

        Raises
        ------
        ApiError
            400 for an empty query.
        """
        if role == "query":
            fields.refuse_empty(self.texts, "input", listed=self.listed)


@dataclass(frozen=True)
class SearchRequest:
    """Request of ``POST /v1/search``."""

    texts: list[str]
    model: str | None
    task: Task
    k: int
    filter: str | None
    partial: bool

    @classmethod
    def read(cls, values: dict[str, Any], settings: Settings) -> SearchRequest:
        """Check the fields.

        Raises
        ------
        ApiError
            400 for a field that is unknown, missing, of another type or beyond a limit.
        """
        fields.refuse_unknown(values, SEARCH_FIELDS)
        texts = fields.texts(values, "query", settings)
        fields.refuse_empty(texts, "query", listed=isinstance(values["query"], list))
        k = fields.count(values, "k")
        k = DEFAULT_K if k is None else k
        if k > settings.max_k:
            raise invalid(f"'k' is {fields.shown(k)}; the maximum is {settings.max_k}", "k", "too_large")
        if k * len(texts) > settings.max_hits:
            raise invalid(
                f"{len(texts)} queries with {k} hits each exceed the maximum of {settings.max_hits} hits per response; "
                "send fewer queries or a smaller k",
                "k",
                "too_large",
            )
        return cls(
            texts=texts,
            model=fields.text(values, "model"),
            task=fields.choice(values, "task", TASKS) or TASKS[0],
            k=k,
            filter=fields.condition(values, "filter"),
            partial=fields.flag(values, "partial"),
        )


@dataclass(frozen=True)
class RerankRequest:
    """Request of ``POST /v1/rerank``.

    Attributes
    ----------
    query : str
    documents : list of dict or str
        As they came.
    texts : list of str
        What is encoded of each: title and text, joined as in the tasks.
    top_n : int
    return_documents : bool
    model : str or None
    """

    query: str
    documents: list[dict[str, Any] | str]
    texts: list[str]
    top_n: int
    return_documents: bool
    model: str | None

    @classmethod
    def read(cls, values: dict[str, Any], settings: Settings) -> RerankRequest:
        """Check the fields.

        Raises
        ------
        ApiError
            400 for a field that is unknown, missing, of another type or beyond a limit.
        """
        fields.refuse_unknown(values, RERANK_FIELDS)
        query = fields.text(values, "query")
        if query is None:
            raise invalid("'query' is missing; it must be a string", "query", "missing")
        query = fields.checked_text(query, "'query'", "query", settings)
        fields.refuse_empty([query], "query", listed=False)
        documents = values.get("documents")
        if documents is None:
            raise invalid(
                "'documents' is missing; it must be a list of strings or of objects with a text",
                "documents",
                "missing",
            )
        if not isinstance(documents, list):
            raise invalid("'documents' must be a list of strings or of objects with a text", "documents")
        if not documents:
            raise invalid("'documents' is an empty list; send at least one document", "documents")
        fields.require_few(documents, "documents", "documents", settings)
        top_n = fields.count(values, "top_n")
        return cls(
            query=query,
            documents=documents,
            texts=[
                _document(document, f"'documents'[{i}]", settings) for i, document in enumerate(documents)
            ],
            top_n=len(documents) if top_n is None else min(top_n, len(documents)),
            return_documents=fields.flag(values, "return_documents"),
            model=fields.text(values, "model"),
        )


def _document(document: Any, where: str, settings: Settings) -> str:
    if isinstance(document, dict):
        title, text = document.get("title"), document.get("text")
        if not isinstance(text, str) or not isinstance(title, str | None):
            raise invalid(
                f"{where} must have a 'text' that is a string, and so must be its 'title'", "documents"
            )
        document = f"{title} {text}".strip() if title else text
    return fields.checked_text(document, where, "documents", settings)


@dataclass(frozen=True)
class DeleteRequest:
    """Request of ``DELETE /v1/documents``: one of ids and a filter."""

    ids: list[str] | None
    filter: str | None

    @classmethod
    def read(cls, values: dict[str, Any], settings: Settings) -> DeleteRequest:
        """Check the fields.

        Raises
        ------
        ApiError
            400 for a field that is unknown, missing, of another type or beyond a limit.
        """
        fields.refuse_unknown(values, DELETE_FIELDS)
        ids, condition = values.get("ids"), fields.condition(values, "filter")
        if (ids is None) == (condition is None):
            raise invalid("send 'ids' or 'filter', one of them", "ids", "missing" if ids is None else "both")
        if ids is None:
            return cls(None, condition)
        if not isinstance(ids, list):
            raise invalid("'ids' must be a list of strings", "ids")
        if len(ids) > settings.max_documents:
            raise invalid(
                f"'ids' has {len(ids)} ids; the maximum per request is {settings.max_documents}",
                "ids",
                "too_many",
            )
        for place, one in enumerate(ids):
            number = isinstance(one, int) and not isinstance(one, bool)
            if not (isinstance(one, str) and one) and not number:
                raise invalid(f"'ids'[{place}] must be a string that is not empty, or an integer", "ids")
        return cls([str(one) for one in ids], None)
