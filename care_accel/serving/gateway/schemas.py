"""Request schemas and their validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from care_accel.encoding.spec import ROLES, TASKS, Role, Task
from care_accel.files import replace_lone_surrogates
from care_accel.serving.gateway.errors import invalid
from care_accel.serving.gateway.settings import Settings

_EMBEDDING_FIELDS = ("input", "model", "input_type", "task", "dimensions", "encoding_format", "user")
_SEARCH_FIELDS = ("query", "k", "filter", "model", "task", "user")
_FORMATS = ("float", "base64")
_DEFAULT_K = 10
_MAX_FILTER = 10_000  # characters


@dataclass(frozen=True)
class EmbeddingRequest:
    """Request of ``POST /v1/embeddings``."""

    texts: list[str]
    model: str
    role: Role
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
        refuse_unknown(values, _EMBEDDING_FIELDS)
        role = _choice(values, "input_type", ROLES)
        model = _text(values, "model")
        if model is None:
            raise invalid("'model' is missing; GET /v1/models lists the served models", "model", "missing")
        return cls(
            texts=_texts(values, "input", settings, empty=role == "document"),
            model=model,
            role=role,
            task=_choice(values, "task", TASKS),
            dimensions=_count(values, "dimensions"),
            base64=_choice(values, "encoding_format", _FORMATS) == "base64",
        )


@dataclass(frozen=True)
class SearchRequest:
    """Request of ``POST /v1/search``."""

    texts: list[str]
    model: str | None
    task: Task
    k: int
    filter: str | None

    @classmethod
    def read(cls, values: dict[str, Any], settings: Settings) -> SearchRequest:
        """Check the fields.

        Raises
        ------
        ApiError
            400 for a field that is unknown, missing, of another type or beyond a limit.
        """
        refuse_unknown(values, _SEARCH_FIELDS)
        texts = _texts(values, "query", settings, empty=False)
        k = _count(values, "k")
        k = _DEFAULT_K if k is None else k
        if k > settings.max_k:
            raise invalid(f"'k' is {_shown(k)}; the maximum is {settings.max_k}", "k", "too_large")
        if k * len(texts) > settings.max_hits:
            raise invalid(
                f"{len(texts)} queries with {k} hits each exceed the maximum of {settings.max_hits} hits per response; "
                "send fewer queries or a smaller k",
                "k",
                "too_large",
            )
        return cls(
            texts=texts,
            model=_text(values, "model"),
            task=_choice(values, "task", TASKS),
            k=k,
            filter=_filter(values),
        )


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
        refuse_unknown(values, ("ids", "filter"))
        ids, condition = values.get("ids"), _filter(values)
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


def _filter(values: dict[str, Any]) -> str | None:
    given = _text(values, "filter")
    if given is None:
        return None
    if not given.strip():
        # A template that was filled with nothing must not find, or delete, all documents.
        raise invalid("'filter' is empty; leave it out, or give an expression", "filter", "empty")
    if len(given) > _MAX_FILTER:
        raise invalid(
            f"'filter' has {len(given)} characters; the maximum is {_MAX_FILTER}", "filter", "too_long"
        )
    return replace_lone_surrogates(given)[0]


def refuse_unknown(values: dict[str, Any], known: tuple[str, ...]) -> None:
    """Refuse fields of other names.

    Raises
    ------
    ApiError
        400 for one.
    """
    # A misspelt input_type would otherwise silently encode documents as queries.
    if unknown := sorted(set(values) - set(known)):
        # A name that is not an identifier may be a misplaced text, which messages must not contain.
        name = unknown[0] if unknown[0].isidentifier() and len(unknown[0]) <= 40 else None
        raise invalid(
            f"unknown field{'' if name is None else f' {name!r}'}; known are {', '.join(known)}",
            name,
            "unknown_field",
        )


def _texts(values: dict[str, Any], name: str, settings: Settings, *, empty: bool) -> list[str]:
    given = values.get(name)
    if given is None:
        raise invalid(f"{name!r} is missing; it must be a string or a list of strings", name, "missing")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list):
        raise invalid(f"{name!r} must be a string or a list of strings", name)
    if not texts:
        raise invalid(f"{name!r} is an empty list; send at least one text", name)
    if len(texts) > settings.max_inputs and not _token_ids(texts):
        raise invalid(
            f"{name!r} has {len(texts)} texts; the maximum per request is {settings.max_inputs}",
            name,
            "too_many",
        )
    return [
        _checked(text, name, i if isinstance(given, list) else None, settings, empty)
        for i, text in enumerate(texts)
    ]


def _token_ids(values: list[Any]) -> bool:
    first = values[0][0] if isinstance(values[0], list) and values[0] else values[0]
    return isinstance(first, int) and not isinstance(first, bool)


def _checked(text: Any, name: str, position: int | None, settings: Settings, empty: bool) -> str:
    where = f"{name!r}" if position is None else f"{name!r}[{position}]"
    if not isinstance(text, str):
        if _token_ids([text]):
            raise invalid(
                f"{where} contains token ids, which are not supported; send texts",
                name,
                "token_ids",
            )
        raise invalid(f"{where} must be a string", name)
    # Lone surrogates, possible in \u escapes, are replaced as the library does.
    text, _ = replace_lone_surrogates(text)
    if not text and not empty:
        raise invalid(f"{where} is empty; send a non-empty query", name, "empty")
    if (length := len(text.encode("utf-8"))) > settings.max_text:
        raise invalid(
            f"{where} has {length} bytes in UTF-8; the maximum is {settings.max_text}", name, "too_long"
        )
    return text


def _text(values: dict[str, Any], name: str) -> str | None:
    value = values.get(name)
    if value is not None and not isinstance(value, str):
        raise invalid(f"{name!r} must be a string", name)
    return value


def _choice(values: dict[str, Any], name: str, allowed: tuple[Any, ...]) -> Any:
    value = values.get(name)
    if value is None:
        return allowed[0]
    if value not in allowed:
        raise invalid(f"{name!r} must be one of {', '.join(allowed)}", name)
    return value


def _count(values: dict[str, Any], name: str) -> int | None:
    value = values.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid(f"{name!r} must be an integer", name)
    if value < 1:
        raise invalid(f"{name!r} is {_shown(value)}; it must be 1 or more", name)
    return value


def _shown(number: int) -> str:
    return str(number) if abs(number) < 10**12 else "a very large number" if number > 0 else "negative"
