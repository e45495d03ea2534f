"""The vectors of an index in one byte a value, with bounds on what that leaves out: what a scan reads."""

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
# A register's load that crosses a cache line costs two.
_ALIGNMENT = 64


class Codes:
    """Codes of the first vectors of an index; ``csrc/include/care/codes.hpp`` has the method and its proof.

    Parameters
    ----------
    width : int

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
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.count = 0
        self.mean: NDArray[np.float32] = np.zeros(width, dtype=np.float32)
        self.exponent = 0
        self.bytes: NDArray[np.uint8] = np.empty((0, _native.block_bytes(width)), dtype=np.uint8)
        self.norms: NDArray[np.float32] = np.empty((2 + _native.norms(width), 0), dtype=np.float32)
        self._centred = 0

    @property
    def blocks(self) -> int:
        """Blocks that the coded vectors fill, the last one perhaps in part."""
        return -(-self.count // _native.BLOCK)

    def arguments(self) -> dict[str, Any]:
        """Return what `_native.search` asks for."""
        return {"bytes": self.bytes, "norms": self.norms, "mean": self.mean, "exponent": self.exponent}

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
            self.count = 0
        self._reserve(-(-count // _native.BLOCK))
        _native.encode(vectors[self.count :], first=self.count, threads=threads, **self.arguments())
        self.count = count

    @classmethod
    def of(
        cls,
        count: int,
        codes: NDArray[np.uint8],
        norms: NDArray[np.float32],
        mean: NDArray[np.float32],
        exponent: int,
    ) -> Codes:
        """Return codes that were made before."""
        found = cls(len(mean))
        found.count = found._centred = count
        found.bytes, found.norms, found.mean, found.exponent = codes, norms, mean, exponent
        return found

    def _reserve(self, blocks: int) -> None:
        if blocks <= len(self.bytes) and self.bytes.flags.writeable:
            return
        room = max(blocks, 2 * len(self.bytes))
        grown = _aligned(room, self.bytes.shape[1])
        grown[: self.blocks] = self.bytes[: self.blocks]
        # What belongs to no vector is read beside what does, and must be numbers.
        norms = np.zeros((len(self.norms), room * _native.BLOCK), dtype=np.float32)
        norms[:, : self.count] = self.norms[:, : self.count]
        self.bytes, self.norms = grown, norms


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
