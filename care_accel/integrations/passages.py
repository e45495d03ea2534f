"""Search results in the form that frameworks share: a text with an id, a score and fields."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from care_accel.errors import CareError
from care_accel.retriever import Hit, Retriever, ServedRetriever

if TYPE_CHECKING:
    from care_accel.collection import Collection

    Source = Collection | Retriever | ServedRetriever | str | Path


class Passage(NamedTuple):
    """What a framework gets of a hit.

    Attributes
    ----------
    id : str
        The document's own id in a collection, else the digits of its position.
    text : str
        The document's text; of a document in chunks, the chunk that matched.
    score : float
        As in `Hit`.
    fields : dict
        Title and fields of the document, without those that are empty.
    span : tuple of int or None
        Of a document in chunks: start and end of ``text`` in the document's text, in characters.
    """

    id: str
    text: str
    score: float
    fields: dict[str, Any]
    span: tuple[int, int] | None


def open_source(source: Source) -> Collection | Retriever | ServedRetriever:
    """Return what is searched; a str or Path is the place of a collection.

    Raises
    ------
    CareError
        There is no collection, or nothing that can be searched was given.
    """
    if isinstance(source, str | Path):
        from care_accel.collection import Collection

        return Collection.open(source)
    if not callable(getattr(source, "search", None)):
        raise CareError(
            f"the source is a {type(source).__name__}; give a Collection, the folder of one, or a Retriever"
        )
    return source


def find(
    source: Collection | Retriever | ServedRetriever, query: str, k: int, filter: str | None = None
) -> list[Passage]:
    """Return the top k documents for a query.

    Raises
    ------
    CareError
        The filter is wrong or the source has none, k is below 1, or the documents have no texts.
    """
    if not isinstance(source, Retriever | ServedRetriever):
        return [_passage(hit) for hit in source.search(query, k, filter=filter)]
    if filter is not None:
        raise CareError(f"a filter needs a Collection; the source is a {type(source).__name__}")
    return [_passage(hit) for hit in source.search(query, k)]


def _passage(hit: Hit) -> Passage:
    row = {"text": hit.document} if isinstance(hit.document, str) else hit.document
    if not isinstance(row, Mapping) or not isinstance(row.get("text"), str):
        kind = "no text" if row is None or isinstance(row, Mapping) else f"a {type(row).__name__}"
        raise CareError(
            f"document {hit.id} is {kind}; give the retriever its documents: texts, or dicts with 'text'"
        )
    fields = {
        name: value
        for name, value in row.items()
        if name not in ("id", "text") and value is not None and (name, value) != ("title", "")
    }
    text = row["text"]
    if hit.span is not None:
        text = text[hit.span[0] : hit.span[1]]
    return Passage(str(hit.id), text, hit.score, fields, hit.span)
