"""The vectors of an index in one byte a value and in half a byte, with bounds on what that leaves out: what a scan reads."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from care_accel import _native

# The mean and the unit are taken anew, whenever the vectors have doubled, until there are as many: vectors that are
# added one by one are coded about a mean that says something, at no more than twice the cost.
_SETTLED = 4096
# Vectors beyond the unit by so many powers of two have all coded anew, so that bounds stay within float32.
_MOST_EXPONENT = 60
# Vectors whose mean is taken for that of all.
_SAMPLE = 2**16
# Bytes of codes from which on halves are made: of what the caches hold they would save nothing.
HALVES_FROM = 2**26
# A register's load that crosses a cache line costs two.
_ALIGNMENT = 64


class Halves:
    """The same vectors in half a byte a value, and in a quarter more: what one query reads first of a large index.

    Parameters
    ----------
    width : int

    Attributes
    ----------
    count : int
        How many vectors are coded.
    bytes : numpy.ndarray
        uint8 ``[blocks, bytes of a block of halves]``.
    quarters : numpy.ndarray
        uint8 ``[blocks * 16, bytes of a row of quarters]``.
    norms : numpy.ndarray
        float32 ``[3, blocks * 16]``: scales, error norms, and those with quarters.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self.bytes: NDArray[np.uint8] = np.empty((0, _native.half_block_bytes(width)), dtype=np.uint8)
        self.quarters: NDArray[np.uint8] = np.empty((0, _native.quarter_bytes(width)), dtype=np.uint8)
        self.norms: NDArray[np.float32] = np.empty((3, 0), dtype=np.float32)

    def arguments(self) -> dict[str, Any]:
        """Return what `_native.search` asks for."""
        return {"half_bytes": self.bytes, "quarters": self.quarters, "half_norms": self.norms}

    def update(
        self, vectors: NDArray[np.float32], mean: NDArray[np.float32], exponent: int, threads: int
    ) -> None:
        """Code the vectors that are not coded yet, about the mean and in the unit of their codes."""
        blocks = -(-len(vectors) // _native.BLOCK)
        if blocks > len(self.bytes) or not self.bytes.flags.writeable:
            room, filled = max(blocks, 2 * len(self.bytes)), -(-self.count // _native.BLOCK)
            self.bytes = _grown(self.bytes, filled, room)
            self.quarters = _grown(self.quarters, filled * _native.BLOCK, room * _native.BLOCK)
            self.norms = _grown_norms(self.norms, self.count, room)
        _native.encode_halves(
            vectors[self.count :],
            first=self.count,
            mean=mean,
            exponent=exponent,
            threads=threads,
            bytes=self.bytes,
            quarters=self.quarters,
            norms=self.norms,
        )
        self.count = len(vectors)

    @classmethod
    def of(
        cls,
        count: int,
        width: int,
        halves: NDArray[np.uint8],
        quarters: NDArray[np.uint8],
        norms: NDArray[np.float32],
    ) -> Halves:
        """Return halves that were made before."""
        found = cls(width)
        found.count, found.bytes, found.quarters, found.norms = count, halves, quarters, norms
        return found


class Codes:
    """Codes of the first vectors of an index; ``csrc/include/care/codes.hpp`` has the method and its proof.

    Parameters
    ----------
    width : int
    halves_from : int
        Make halves as well from so many bytes of codes on.

    Attributes
    ----------
    count : int
        How many vectors are coded.
    bytes : numpy.ndarray
        uint8 ``[blocks, bytes of a block]``.
    norms : numpy.ndarray
        float32 ``[2 + error norms, blocks * 16]``: scales, lengths, error norms over prefixes and the whole.
    mean : numpy.ndarray
        float32 ``[width]``, what is taken off every vector first.
    exponent : int
        Everything is in units of two to its power.
    halves : Halves or None
        The same vectors in half a byte a value; None where there are too few for it to pay.
    """

    def __init__(self, width: int, halves_from: int = HALVES_FROM) -> None:
        self.width = width
        self.halves_from = halves_from
        self.count = 0
        self.mean: NDArray[np.float32] = np.zeros(width, dtype=np.float32)
        self.exponent = 0
        self.bytes: NDArray[np.uint8] = np.empty((0, _native.block_bytes(width)), dtype=np.uint8)
        self.norms: NDArray[np.float32] = np.empty((2 + _native.norms(width), 0), dtype=np.float32)
        self.halves: Halves | None = None
        self._centred = 0

    @property
    def blocks(self) -> int:
        """Blocks that the coded vectors fill, the last one perhaps in part."""
        return -(-self.count // _native.BLOCK)

    def arguments(self) -> dict[str, Any]:
        """Return what `_native.encode` and a GPU ask for."""
        return {"bytes": self.bytes, "norms": self.norms, "mean": self.mean, "exponent": self.exponent}

    def search_arguments(self) -> dict[str, Any]:
        """Return what `_native.search` asks for."""
        return {**self.arguments(), **(self.halves.arguments() if self.halves else {})}

    def update(self, vectors: NDArray[np.float32], threads: int) -> None:
        """Code the vectors that are not coded yet.

        Parameters
        ----------
        vectors : numpy.ndarray
            float32 ``[n, width]``: all of the index, finite.
        threads : int
        """
        count = len(vectors)
        if count == self.count:
            return
        exponent = _exponent(vectors[self.count :])
        unsettled = self._centred < _SETTLED and count >= 2 * self._centred
        if unsettled or exponent > self.exponent + _MOST_EXPONENT:
            self.mean, self.exponent = _mean(vectors), _exponent(vectors)
            self._centred = count
            self.count, self.halves = 0, None
        self._reserve(-(-count // _native.BLOCK))
        _native.encode(vectors[self.count :], first=self.count, threads=threads, **self.arguments())
        self.count = count
        if self.blocks * self.bytes.shape[1] >= self.halves_from:
            self.halves = self.halves or Halves(self.width)
            self.halves.update(vectors, self.mean, self.exponent, threads)

    @classmethod
    def of(
        cls,
        count: int,
        codes: NDArray[np.uint8],
        norms: NDArray[np.float32],
        mean: NDArray[np.float32],
        exponent: int,
        halves: Halves | None = None,
    ) -> Codes:
        """Return codes that were made before."""
        found = cls(len(mean))
        found.count = found._centred = count
        found.bytes, found.norms, found.mean, found.exponent = codes, norms, mean, exponent
        found.halves = halves
        return found

    def _reserve(self, blocks: int) -> None:
        if blocks <= len(self.bytes) and self.bytes.flags.writeable:
            return
        room = max(blocks, 2 * len(self.bytes))
        self.bytes = _grown(self.bytes, self.blocks, room)
        self.norms = _grown_norms(self.norms, self.count, room)


def _mean(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean of some of the vectors, evenly spread: it need not be that of all."""
    some = vectors[:: -(-len(vectors) // _SAMPLE)]
    return some.mean(axis=0, dtype=np.float64).astype(np.float32)


def _exponent(vectors: NDArray[np.float32]) -> int:
    """Return the least e such that every value is below 2^e; 0 if all are 0."""
    largest = max(abs(float(vectors.max(initial=0))), abs(float(vectors.min(initial=0))))
    return int(np.frexp(largest)[1])


def _aligned(rows: int, columns: int) -> NDArray[np.uint8]:
    room = np.empty(rows * columns + _ALIGNMENT, dtype=np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + rows * columns].reshape(rows, columns)


def _grown(array: NDArray[np.uint8], filled: int, rows: int) -> NDArray[np.uint8]:
    grown = _aligned(rows, array.shape[1])
    grown[:filled] = array[:filled]
    return grown


def _grown_norms(array: NDArray[np.float32], filled: int, blocks: int) -> NDArray[np.float32]:
    # What belongs to no vector is read beside what does, and must be numbers.
    grown = np.zeros((len(array), blocks * _native.BLOCK), dtype=np.float32)
    grown[:, :filled] = array[:, :filled]
    return grown
