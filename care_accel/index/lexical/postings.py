"""Postings: for each gram the documents that contain it, of some consecutive documents that never change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from care_accel.index.lexical.grams import code_points, pairs
from care_accel.index.saved_file import SavedFile

# Postings that are moved at a time: bounds the memory of joining large parts.
_PIECE = 2**22


@dataclass(frozen=True, eq=False)
class Postings:
    """The postings of consecutive documents, numbered from 0.

    Attributes
    ----------
    grams : numpy.ndarray
        uint64 ``[grams]``, ascending; see `packed_grams`.
    offsets : numpy.ndarray
        int64 ``[grams + 1]``: the postings of a gram are those from its offset to the next.
    documents : numpy.ndarray
        int32 ``[postings]``, ascending for each gram.
    frequencies : numpy.ndarray
        uint8, uint16 or uint32 ``[postings]``: how often the document contains the gram.
    lengths : numpy.ndarray
        int32 ``[documents]``: grams of each document, repeated ones too.
    files : dict of str to SavedFile
        The files that hold these arrays, by name; noted when they are written, and otherwise without a meaning.
    """

    grams: NDArray[np.uint64]
    offsets: NDArray[np.int64]
    documents: NDArray[np.int32]
    frequencies: NDArray[np.unsignedinteger]
    lengths: NDArray[np.int32]
    files: dict[str, SavedFile] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of documents."""
        return len(self.lengths)

    @property
    def size(self) -> int:
        """Number of postings."""
        return len(self.documents)

    @classmethod
    def of(cls, texts: Sequence[str]) -> Postings:
        """Return the postings of folded texts.

        Parameters
        ----------
        texts : sequence of str
            As `folded` returns them.
        """
        characters = np.fromiter(map(len, texts), np.int64, len(texts))
        codes = code_points(texts)
        documents = np.repeat(np.arange(len(texts), dtype=np.int32), characters)
        # By character, then by place. A stable sort of 16-bit numbers is a radix sort, several times faster than others.
        numbers = _small_numbers(codes)
        order = np.argsort(numbers, kind="stable")
        singles = _counted(codes[order].astype(np.uint64), documents[order])
        # The places of the second characters of pairs are in the order of these; sorting them once more, by the first, makes
        # the order of pairs.
        is_first = np.ones(len(codes), dtype=bool)
        is_first[1:] = documents[1:] != documents[:-1]
        order = order[~is_first[order]]
        order = order[np.argsort(numbers[order - 1], kind="stable")]
        doubles = _counted(pairs(codes[order - 1], codes[order]), documents[order])
        return cls(
            np.concatenate([singles.grams, doubles.grams]),
            _offsets(np.concatenate([singles.postings, doubles.postings])),
            np.concatenate([singles.documents, doubles.documents]),
            _smallest(np.concatenate([singles.frequencies, doubles.frequencies])),
            np.maximum(2 * characters - 1, 0).astype(np.int32),
        )

    def find(self, grams: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where the postings of grams begin and end, int64 ``[n]`` each; equal for grams that no document has."""
        if not len(self.grams):
            return np.zeros(len(grams), np.int64), np.zeros(len(grams), np.int64)
        rows = np.minimum(np.searchsorted(self.grams, grams), len(self.grams) - 1)
        return self.offsets[rows], self.offsets[rows + (self.grams[rows] == grams)]

    def moved(self, places: NDArray[np.int32], count: int) -> Postings:
        """Return the postings of some documents under other numbers.

        Parameters
        ----------
        places : numpy.ndarray
            int32 ``[documents]``: the new number of each document, -1 to leave it out; those of the others ascend.
        count : int
            Number of documents then. One without an old number is empty.
        """
        documents = places[self.documents]
        stays = documents >= 0
        counts = (
            np.add.reduceat(stays, self.offsets[:-1], dtype=np.int64) if self.size else np.empty(0, np.int64)
        )
        used = counts > 0
        lengths = np.zeros(count, np.int32)
        lengths[places[places >= 0]] = self.lengths[places >= 0]
        return Postings(
            self.grams[used], _offsets(counts[used]), documents[stays], self.frequencies[stays], lengths
        )


def joined(parts: Sequence[Postings]) -> Postings:
    """Return the postings of several parts as one; the documents of a part come behind those of the one before it."""
    grams = np.unique(np.concatenate([part.grams for part in parts]))
    rows = [np.searchsorted(grams, part.grams) for part in parts]
    counts = np.zeros(len(grams), np.int64)
    for part, own in zip(parts, rows, strict=True):
        counts[own] += np.diff(part.offsets)
    offsets = _offsets(counts)
    documents = np.empty(int(offsets[-1]), np.int32)
    frequencies = np.empty(len(documents), np.result_type(*(part.frequencies.dtype for part in parts)))
    free, start = offsets[:-1].copy(), 0
    for part, own in zip(parts, rows, strict=True):
        shift = free[own] - part.offsets[:-1]
        for low, high in _pieces(part.offsets):
            begin, end = int(part.offsets[low]), int(part.offsets[high])
            places = np.repeat(shift[low:high], np.diff(part.offsets[low : high + 1]))
            places += np.arange(begin, end)
            documents[places] = part.documents[begin:end] + np.int32(start)
            frequencies[places] = part.frequencies[begin:end]
        free[own] += np.diff(part.offsets)
        start += part.count
    return Postings(grams, offsets, documents, frequencies, np.concatenate([part.lengths for part in parts]))


def _small_numbers(codes: NDArray[np.uint32]) -> NDArray[np.unsignedinteger]:
    """Number code points in their order, in 16 bits if there are few enough different ones."""
    present = np.zeros(int(codes.max(initial=0)) + 1, dtype=bool)
    present[codes] = True
    count = int(present.sum())
    numbers = np.cumsum(present, dtype=np.uint32) - np.uint32(1)
    return (numbers.astype(np.uint16) if count <= 2**16 else numbers)[codes]


class _Counted(NamedTuple):
    """Different grams, how many postings each has, and documents and frequencies of these."""

    grams: NDArray[np.uint64]
    postings: NDArray[np.int64]
    documents: NDArray[np.int32]
    frequencies: NDArray[np.int64]


def _counted(grams: NDArray[np.uint64], documents: NDArray[np.int32]) -> _Counted:
    """Count grams and their documents, which are in the order of both."""
    new = np.ones(len(grams), dtype=bool)
    new[1:] = grams[1:] != grams[:-1]
    starts = np.flatnonzero(new)
    new[1:] |= documents[1:] != documents[:-1]
    postings = np.flatnonzero(new)
    return _Counted(
        grams[starts],
        np.diff(np.searchsorted(postings, starts), append=len(postings)),
        documents[postings],
        np.diff(postings, append=len(grams)),
    )


def _offsets(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def _smallest(frequencies: NDArray[np.int64]) -> NDArray[np.unsignedinteger]:
    largest = int(frequencies.max(initial=0))
    return frequencies.astype(np.uint8 if largest < 2**8 else np.uint16 if largest < 2**16 else np.uint32)


def _pieces(offsets: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield ranges of grams with some millions of postings each."""
    edges = np.searchsorted(offsets, np.arange(0, int(offsets[-1]), _PIECE))
    bounds = np.unique(np.append(edges, len(offsets) - 1)).tolist()
    yield from pairwise(bounds)
