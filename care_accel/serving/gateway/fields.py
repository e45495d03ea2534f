"""Checks of the fields of a request."""

from __future__ import annotations

from typing import Any

from care_accel.files import replace_lone_surrogates
from care_accel.serving.gateway.errors import ApiError, invalid
from care_accel.serving.gateway.settings import Settings

MAX_FILTER = 10_000  # characters


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


def texts(values: dict[str, Any], name: str, settings: Settings) -> list[str]:
    """Return a text or a list of texts as a list.

    Raises
    ------
    ApiError
        400 if it is missing, has another type or is beyond a limit.
    """
    given = values.get(name)
    if given is None:
        raise invalid(f"{name!r} is missing; it must be a string or a list of strings", name, "missing")
    if isinstance(given, str):
        return [checked_text(given, repr(name), name, settings)]
    if not isinstance(given, list):
        raise invalid(f"{name!r} must be a string or a list of strings", name)
    if not given:
        raise invalid(f"{name!r} is an empty list; send at least one text", name)
    if _are_token_ids(given):
        raise _token_ids(name)
    require_few(given, name, "texts", settings)
    return [checked_text(text, f"{name!r}[{i}]", name, settings) for i, text in enumerate(given)]


def require_few(values: list[Any], name: str, what: str, settings: Settings) -> None:
    """Refuse more values than a request may have.

    Raises
    ------
    ApiError
        400 if there are more.
    """
    if len(values) > settings.max_inputs:
        raise invalid(
            f"{name!r} has {len(values)} {what}; the maximum per request is {settings.max_inputs}",
            name,
            "too_many",
        )


def refuse_empty(given: list[str], name: str, *, listed: bool) -> None:
    """Refuse a query without text.

    Raises
    ------
    ApiError
        400 for the first; ``listed`` if the request has a list.
    """
    for position, text in enumerate(given):
        if not text:
            where = f"{name!r}[{position}]" if listed else repr(name)
            raise invalid(f"{where} is empty; send a non-empty query", name, "empty")


def checked_text(value: Any, where: str, name: str, settings: Settings) -> str:
    """Return a text; lone surrogates, possible in ``\\u`` escapes, are replaced as the library does.

    Raises
    ------
    ApiError
        400 if it is not a text or too long; ``where`` names it, ``name`` is its field.
    """
    if not isinstance(value, str):
        if _are_token_ids(value if isinstance(value, list) else [value]):
            raise _token_ids(name)
        raise invalid(f"{where} must be a string", name)
    value, _ = replace_lone_surrogates(value)
    if (length := len(value.encode("utf-8"))) > settings.max_text:
        raise invalid(
            f"{where} has {length} bytes in UTF-8; the maximum is {settings.max_text}", name, "too_long"
        )
    return value


def _are_token_ids(values: list[Any]) -> bool:
    first = values[0] if values else None
    if isinstance(first, list):
        first = first[0] if first else None
    return isinstance(first, int) and not isinstance(first, bool)


def _token_ids(name: str) -> ApiError:
    return invalid(
        f"{name!r} contains token ids, which belong to another model's tokenizer; send texts. LangChain sends texts with "
        "OpenAIEmbeddings(check_embedding_ctx_length=False): see docs/gateway.md#langchain",
        name,
        "token_ids",
    )


def text(values: dict[str, Any], name: str) -> str | None:
    """Return an optional text.

    Raises
    ------
    ApiError
        400 if it is not one.
    """
    value = values.get(name)
    if value is not None and not isinstance(value, str):
        raise invalid(f"{name!r} must be a string", name)
    return value


def choice(values: dict[str, Any], name: str, allowed: tuple[Any, ...]) -> Any:
    """Return one of some values, None if the field is missing.

    Raises
    ------
    ApiError
        400 if it is another.
    """
    value = values.get(name)
    if value is not None and value not in allowed:
        raise invalid(f"{name!r} must be one of {', '.join(allowed)}", name)
    return value


def flag(values: dict[str, Any], name: str) -> bool:
    """Return a boolean, false if the field is missing.

    Raises
    ------
    ApiError
        400 if it is not one.
    """
    value = values.get(name)
    if value is not None and not isinstance(value, bool):
        raise invalid(f"{name!r} must be true or false", name)
    return bool(value)


def count(values: dict[str, Any], name: str) -> int | None:
    """Return an optional integer above 0.

    Raises
    ------
    ApiError
        400 if it is not one.
    """
    value = values.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid(f"{name!r} must be an integer", name)
    if value < 1:
        raise invalid(f"{name!r} is {shown(value)}; it must be 1 or more", name)
    return value


def condition(values: dict[str, Any], name: str) -> str | None:
    """Return an optional filter.

    Raises
    ------
    ApiError
        400 if it is not a text, empty or too long.
    """
    given = text(values, name)
    if given is None:
        return None
    if not given.strip():
        # A template that was filled with nothing must not find, or delete, all documents.
        raise invalid(f"{name!r} is empty; leave it out, or give an expression", name, "empty")
    if len(given) > MAX_FILTER:
        raise invalid(f"{name!r} has {len(given)} characters; the maximum is {MAX_FILTER}", name, "too_long")
    return replace_lone_surrogates(given)[0]


def shown(number: int) -> str:
    """Return a number as text that is never long."""
    return str(number) if abs(number) < 10**12 else "a very large number" if number > 0 else "negative"
