"""The parts of a lexical index: postings of consecutive documents, of which some are removed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from care_accel.index.lexical import postings as index_postings
from care_accel.index.lexical.grams import folded
from care_accel.index.lexical.postings import Postings

# Characters that are made into postings at a time: bounds the memory, some 60 bytes each.
_BATCH = 2**22
# Parts of more postings are not joined with others: a search of another part costs little next to reading them.
_LARGEST_JOINED = 2**26
# Postings that are scored at a time.
_TOGETHER = 2**15


@dataclass(frozen=True, eq=False)
class Part:
    """Postings, and which of their documents are removed.

    Attributes
    ----------
    postings : Postings
    removed : numpy.ndarray
        bool ``[documents]``.
    alive : int
        Documents that are not removed.
    length : int
        Sum of their lengths.
    """

    postings: Postings
    removed: NDArray[np.bool_]
    alive: int
    length: int

    @classmethod
    def of(cls, postings: Postings, removed: NDArray[np.bool_] | None = None) -> Self:
        """Return a part; none of its documents is removed unless a mask says so."""
        if removed is None:
            removed = np.zeros(postings.count, dtype=bool)
        alive = postings.lengths[~removed]
        return cls(postings, removed, len(alive), int(alive.sum(dtype=np.int64)))

    def having(self, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many documents have a gram and are not removed, given where the postings of grams begin and end."""
        counts = ends - begins
        if self.alive < len(self.removed):
            for row in np.flatnonzero(counts).tolist():
                documents = self.postings.documents[begins[row] : ends[row]]
                counts[row] -= np.count_nonzero(self.removed[documents])
        return counts

    def add_scores(
        self,
        scores: NDArray[np.float32],
        begins: NDArray[np.int64],
        ends: NDArray[np.int64],
        weights: NDArray[np.float32],
        norms: NDArray[np.float32],
    ) -> None:
        """Add to the scores of the documents those of grams, one after the other.

        Parameters
        ----------
        scores, norms : numpy.ndarray
            float32 ``[documents]``.
        begins, ends, weights : numpy.ndarray
            Of the postings of each gram, ``[grams]``.
        """
        rows = np.flatnonzero(ends > begins)
        if not len(rows):
            return
        begins, ends, weights = begins[rows], ends[rows], weights[rows]
        # Rare grams together: a call of NumPy costs as much as hundreds of postings.
        before = np.cumsum(ends - begins) // _TOGETHER
        for some in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(before)) + 1):
            spans = [slice(*span) for span in zip(begins[some].tolist(), ends[some].tolist(), strict=True)]
            documents = _concatenated([self.postings.documents[span] for span in spans])
            frequencies = _concatenated([self.postings.frequencies[span] for span in spans])
            shares = norms[documents]
            shares += frequencies
            np.divide(frequencies, shares, out=shares)
            shares *= np.repeat(weights[some], ends[some] - begins[some])
            np.add.at(scores, documents, shares)

    def without(self, documents: NDArray[np.int64]) -> Part:
        """Return this part with some documents removed, numbered from 0."""
        removed = self.removed.copy()
        removed[documents] = True
        return Part.of(self.postings, removed)

    def taken(self, documents: NDArray[np.int64]) -> Part:
        """Return only some documents, which ascend; the postings of removed ones are dropped."""
        removed = self.removed[documents]
        places = np.full(self.postings.count, -1, np.int32)
        places[documents] = np.where(removed, -1, np.arange(len(documents), dtype=np.int32))
        return Part.of(self.postings.moved(places, len(documents)), removed)

    def purged(self) -> Part:
        """Return the same documents without the postings of removed ones."""
        return self if self.alive == len(self.removed) else self.taken(np.arange(len(self.removed)))


def extended(parts: Sequence[Part], documents: Iterable[str]) -> list[Part]:
    """Return parts and more documents.

    New postings take in the parts before them that are at most twice as large: a part is more than twice as large as the
    next, so that there are few of them, and a posting is copied but a few times.
    """
    found = list(parts)
    for batch in _batches(documents):
        last = Part.of(Postings.of(batch))
        first, size = len(found), last.postings.size
        while first and found[first - 1].postings.size <= min(2 * size, _LARGEST_JOINED):
            first -= 1
            size += found[first].postings.size
        found[first:] = joined([*found[first:], last])
    return found


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    """Yield folded documents, some millions of characters at a time."""
    batch: list[str] = []
    characters = 0
    for document in documents:
        batch.append(folded(document))
        characters += len(batch[-1])
        if characters >= _BATCH:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def joined(parts: Sequence[Part]) -> list[Part]:
    """Return parts as one, without the postings of removed documents; no part of none, and a single one as it is."""
    if len(parts) < 2:
        return list(parts)
    postings = index_postings.joined([part.purged().postings for part in parts])
    return [Part.of(postings, np.concatenate([part.removed for part in parts]))]


def _concatenated(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
