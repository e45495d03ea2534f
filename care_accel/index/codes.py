"""The quantised vectors of an index, which a scan reads: int8 codes, and int4 codes of a large index."""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from care_accel import _native
from care_accel.index.value_scales import chosen_value_scales, no_value_scales

# The mean and the unit are computed again whenever the number of vectors has doubled, until it reaches this: vectors that
# are added one by one get a meaningful mean, at no more than twice the cost.
_FREEZE_MEAN_AT = 4096
# All vectors are quantised again if new ones exceed the unit by more than this power of two: bounds stay within float32.
_MAX_EXPONENT_GROWTH = 60
# Number of vectors from which the mean is computed.
_MEAN_SAMPLE = 2**16
# An index has int4 codes from this many bytes of int8 codes on. Smaller ones fit into the caches, and would gain nothing.
INT4_MIN_BYTES = 2**26
# Bytes. A register load that crosses a cache line costs two loads.
_ALIGNMENT = 64


class Int4Codes:
    """The same vectors in 4 bits per value, with 2-bit residual codes: what one query reads first of a large index.

    Parameters
    ----------
    width : int
    value_scales : numpy.ndarray, optional
        float32 ``[width]``, from `_native.MIN_VALUE_SCALE` to 1; by default all are 1.

    Attributes
    ----------
    count : int
        Number of quantised vectors.
    value_scales : numpy.ndarray
        They stay as they are as vectors are added: bounds hold for any vectors.
    bytes : numpy.ndarray
        uint8 ``[blocks, bytes of a block of int4 codes]``.
    residuals : numpy.ndarray
        uint8 ``[blocks * 16, bytes of a vector's residual codes]``.
    norms : numpy.ndarray
        float32 ``[3, blocks * 16]``: scales, error norms, and error norms with residual codes.
    """

    def __init__(self, width: int, value_scales: NDArray[np.float32] | None = None) -> None:
        self.count = 0
        self.value_scales = no_value_scales(width) if value_scales is None else value_scales
        self.bytes: NDArray[np.uint8] = np.empty((0, _native.int4_block_bytes(width)), dtype=np.uint8)
        self.residuals: NDArray[np.uint8] = np.empty((0, _native.residual_bytes(width)), dtype=np.uint8)
        self.norms: NDArray[np.float32] = np.empty((3, 0), dtype=np.float32)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `_native.search`."""
        return {
            "int4_bytes": self.bytes,
            "residuals": self.residuals,
            "int4_norms": self.norms,
            "value_scales": self.value_scales,
        }

    def update(
        self, vectors: NDArray[np.float32], mean: NDArray[np.float32], exponent: int, threads: int
    ) -> None:
        """Quantise the vectors that have no codes yet, with the mean and the unit of the int8 codes."""
        blocks = -(-len(vectors) // _native.BLOCK)
        if blocks > len(self.bytes) or not self.bytes.flags.writeable:
            capacity, filled = max(blocks, 2 * len(self.bytes)), -(-self.count // _native.BLOCK)
            self.bytes = _grown(self.bytes, filled, capacity)
            self.residuals = _grown(self.residuals, filled * _native.BLOCK, capacity * _native.BLOCK)
            self.norms = _grown_norms(self.norms, self.count, capacity)
        _native.encode_int4(
            vectors[self.count :],
            first=self.count,
            mean=mean,
            exponent=exponent,
            value_scales=self.value_scales,
            threads=threads,
            bytes=self.bytes,
            residuals=self.residuals,
            norms=self.norms,
        )
        self.count = len(vectors)

    @classmethod
    def from_arrays(
        cls,
        count: int,
        width: int,
        codes: NDArray[np.uint8],
        residuals: NDArray[np.uint8],
        norms: NDArray[np.float32],
        value_scales: NDArray[np.float32] | None = None,
    ) -> Int4Codes:
        """Return existing codes of ``count`` vectors."""
        found = cls(width, value_scales)
        found.count, found.bytes, found.residuals, found.norms = count, codes, residuals, norms
        return found


class Codes:
    """The quantised vectors of an index; ``csrc/include/care/codes.hpp`` has the method and its proof.

    Parameters
    ----------
    width : int
    int4_min_bytes : int
        Add int4 codes once the int8 codes have this many bytes.

    Attributes
    ----------
    count : int
        Number of quantised vectors.
    bytes : numpy.ndarray
        uint8 ``[blocks, bytes of a block]``, int8 codes.
    norms : numpy.ndarray
        float32 ``[2 + error norms, blocks * 16]``: scales, code norms, error norms over prefixes and the whole width.
    mean : numpy.ndarray
        float32 ``[width]``, subtracted from every vector.
    exponent : int
        The unit of all codes is two to this power.
    int4 : Int4Codes or None
        None if the index is too small to gain from them.
    """

    def __init__(self, width: int, int4_min_bytes: int = INT4_MIN_BYTES) -> None:
        self.width = width
        self.int4_min_bytes = int4_min_bytes
        self.count = 0
        self.mean: NDArray[np.float32] = np.zeros(width, dtype=np.float32)
        self.exponent = 0
        self.bytes: NDArray[np.uint8] = np.empty((0, _native.block_bytes(width)), dtype=np.uint8)
        self.norms: NDArray[np.float32] = np.empty((2 + _native.error_norm_count(width), 0), dtype=np.float32)
        self.int4: Int4Codes | None = None
        self._mean_count = 0  # number of vectors when the mean was computed

    @property
    def blocks(self) -> int:
        """Number of blocks with quantised vectors; the last one may be incomplete."""
        return -(-self.count // _native.BLOCK)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `_native.encode` and `_native.CudaIndex`."""
        return {"bytes": self.bytes, "norms": self.norms, "mean": self.mean, "exponent": self.exponent}

    def search_arguments(self) -> dict[str, Any]:
        """Return the arguments of `_native.search`."""
        return {**self.arguments(), **(self.int4.arguments() if self.int4 else {})}

    def extended(self, vectors: NDArray[np.float32], threads: int) -> Codes:
        """Return the codes of these vectors and of more, which share memory with these where it has room.

        These stay as they are, also if it fails. Of the codes that share memory only the longest can be extended.

        Parameters
        ----------
        vectors : numpy.ndarray
            float32 ``[n, width]``, finite: those that have codes already, and the new ones.
        threads : int
        """
        more = copy(self)
        more.int4 = copy(self.int4)
        more._update(vectors, threads)
        return more

    def _update(self, vectors: NDArray[np.float32], threads: int) -> None:
        count = len(vectors)
        if count == self.count:
            return
        exponent = _exponent(vectors[self.count :])
        outdated = self._mean_count < _FREEZE_MEAN_AT and count >= 2 * self._mean_count
        if outdated or exponent > self.exponent + _MAX_EXPONENT_GROWTH:
            self.mean, self.exponent = _mean(vectors), _exponent(vectors)
            self._mean_count = count
            self.count, self.bytes, self.norms, self.int4 = 0, self.bytes[:0], self.norms[:, :0], None
        self._reserve(-(-count // _native.BLOCK))
        _native.encode(vectors[self.count :], first=self.count, threads=threads, **self.arguments())
        self.count = count
        if self.int4 is not None or self.blocks * self.bytes.shape[1] >= self.int4_min_bytes:
            if self.int4 is None:
                scales = chosen_value_scales(vectors, self.mean, self.exponent, threads)
                self.int4 = Int4Codes(self.width, scales)
            self.int4.update(vectors, self.mean, self.exponent, threads)

    @classmethod
    def from_arrays(
        cls,
        count: int,
        codes: NDArray[np.uint8],
        norms: NDArray[np.float32],
        mean: NDArray[np.float32],
        exponent: int,
        int4: Int4Codes | None = None,
    ) -> Codes:
        """Return existing codes of ``count`` vectors."""
        found = cls(len(mean))
        found.count = found._mean_count = count
        found.bytes, found.norms, found.mean, found.exponent = codes, norms, mean, exponent
        found.int4 = int4
        return found

    def _reserve(self, blocks: int) -> None:
        if blocks <= len(self.bytes) and self.bytes.flags.writeable:
            return
        capacity = max(blocks, 2 * len(self.bytes))
        self.bytes = _grown(self.bytes, self.blocks, capacity)
        self.norms = _grown_norms(self.norms, self.count, capacity)


def _mean(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean of an evenly spaced sample: it need not be the mean of all vectors."""
    sample = vectors[:: -(-len(vectors) // _MEAN_SAMPLE)]
    return sample.mean(axis=0, dtype=np.float64).astype(np.float32)


def _exponent(vectors: NDArray[np.float32]) -> int:
    """Return the smallest e such that every absolute value is below 2^e; 0 if all values are 0."""
    largest = max(abs(float(vectors.max(initial=0))), abs(float(vectors.min(initial=0))))
    return int(np.frexp(largest)[1])


def _aligned(rows: int, columns: int) -> NDArray[np.uint8]:
    memory = np.empty(rows * columns + _ALIGNMENT, dtype=np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + rows * columns].reshape(rows, columns)


def _grown(array: NDArray[np.uint8], filled: int, rows: int) -> NDArray[np.uint8]:
    grown = _aligned(rows, array.shape[1])
    grown[:filled] = array[:filled]
    return grown


def _grown_norms(array: NDArray[np.float32], filled: int, blocks: int) -> NDArray[np.float32]:
    # The scan reads whole blocks: the padding must not be NaN.
    grown = np.zeros((len(array), blocks * _native.BLOCK), dtype=np.float32)
    grown[:, :filled] = array[:, :filled]
    return grown
