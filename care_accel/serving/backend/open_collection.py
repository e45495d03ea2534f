"""A version of a collection as a served model uses it: hits of a batch of queries with filters, and their documents."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from care_accel.encoding.runtimes.server_messages import SPAN

if TYPE_CHECKING:  # without a collection a model needs no Arrow
    from care_accel.collection.versions.searching import Searcher

# Serialised documents in the cache; some tens of megabytes for CARE's tasks.
_CACHED_DOCUMENTS = 16_384


class OpenCollection:
    """A version of a collection. Immutable, so that a batch of requests has hits of one version.

    Parameters
    ----------
    searcher : Searcher
    """

    def __init__(self, searcher: Searcher) -> None:
        self._searcher = searcher
        self._cached: dict[int, tuple[bytes, bytes]] = {-1: (b"null", b"")}

    def __len__(self) -> int:
        return self._searcher.snapshot.index.alive

    @property
    def needs_texts(self) -> bool:
        """Whether the texts of the queries are searched too: the collection has a lexical index."""
        return self._searcher.manifest.lexical

    @property
    def is_approximate(self) -> bool:
        """Whether some searches are no exact scans."""
        return self._searcher.found_by is not None

    @property
    def promised(self) -> float:
        """The recall that was asked for; 1 if every search is an exact scan."""
        found_by = self._searcher.found_by
        return 1.0 if found_by is None else found_by.choice.asked

    def check_filter(self, expression: str) -> None:
        """Check a filter; its mask is kept for the search.

        Raises
        ------
        CareError
            The filter is wrong; the message has the fields.
        """
        self._searcher.mask(expression)

    def search(
        self,
        vectors: Any,
        ks: Sequence[int],
        texts: Sequence[str] | None,
        filters: Sequence[str | None] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], int]:
        """Search a batch of queries with individual k and filters; see `OpenIndex.search`.

        Returns
        -------
        scores, ids : numpy.ndarray
            ``[n, max(k)]``; an id is a position in this version, of the chunk that matched best.
        rescored : int
        """
        if not isinstance(vectors, np.ndarray):
            vectors = vectors.cpu().numpy()
        shape = len(vectors), max(ks)
        scores, ids = np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64)
        rescored: list[int] = []
        groups: dict[tuple[int, str | None], list[int]] = {}
        for row, k in enumerate(ks):
            groups.setdefault((k, filters[row] if filters else None), []).append(row)
        for (k, expression), rows in groups.items():
            some = None if texts is None else [texts[row] for row in rows]
            ranked = self._searcher.rank(
                vectors if len(rows) == len(vectors) else vectors[rows],
                k,
                some,
                filter=expression,
                rescored=rescored,
            )
            for row, hits in zip(rows, ranked, strict=True):
                for place, hit in enumerate(hits):
                    ids[row, place], scores[row, place] = hit
        return scores, ids, sum(rescored)

    def documents(self, ids: NDArray[np.int64]) -> NDArray[np.object_]:
        """Return the document of each hit as UTF-8 JSON, ``null`` for padding."""
        return self._values(ids, 0)

    def document_ids(self, ids: NDArray[np.int64]) -> NDArray[np.object_]:
        """Return the user's id of each hit in UTF-8, empty for padding."""
        return self._values(ids, 1)

    def _values(self, ids: NDArray[np.int64], which: int) -> NDArray[np.object_]:
        values = np.empty(ids.size, dtype=np.object_)
        for i, position in enumerate(ids.ravel().tolist()):
            values[i] = (self._cached.get(position) or self._write(position))[which]
        return values.reshape(ids.shape)

    def _write(self, position: int) -> tuple[bytes, bytes]:
        identifier, document, span = self._searcher.document(position)
        raw = json_of(document, span), identifier.encode("utf-8")
        if len(self._cached) < _CACHED_DOCUMENTS:
            self._cached[position] = raw
        return raw


def json_of(document: dict[str, Any], span: tuple[int, int] | None) -> bytes:
    """Return a document as UTF-8 JSON, with the span of the chunk that matched, which is added to it."""
    if span is not None:
        document[SPAN] = span
    return _as_json(document).encode("utf-8")


def _plain(value: Any) -> str:
    if isinstance(value, datetime.date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is no JSON value")


# `json.dumps` makes an encoder for each call with such options.
_as_json = json.JSONEncoder(ensure_ascii=False, default=_plain).encode
