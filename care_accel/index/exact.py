"""Exact search over vectors, and what is allowed to become one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from care_accel import _native
from care_accel.errors import CareError, require_count
from care_accel.index import store

_FIRST_CAPACITY = 1024


class ExactIndex:
    """Finds the documents with the largest inner products, all of them compared.

    The order is total: higher score first, among equal scores the smaller id. A score is the inner product
    of two float32 vectors, its products exact and added in float64 in a fixed order
    (``csrc/include/care/score.hpp``): the same whatever the batch, the threads or the processor. Scores are
    compared in float64 and returned as float32.

    Threads may search one index together, but not while one adds to it.

    Parameters
    ----------
    width : int
        Length of every vector.
    device : {"cpu"}
        Where the scan runs.
    threads : int, optional
        Threads of one search; as many as the process may use by default.
    encoder_revision : str, optional
        `DualEncoder.revision` of the document encoder whose vectors these are. It is saved along, and a
        `Retriever` refuses a model of another one.

    Raises
    ------
    CareError
        A width or a number of threads below 1, or a device that is not there.
    """

    def __init__(
        self,
        width: int,
        *,
        device: str = "cpu",
        threads: int | None = None,
        encoder_revision: str | None = None,
    ) -> None:
        require_count("width", width)
        if device != "cpu":
            raise CareError(
                f"device {device!r}: the scan runs on the CPU only in this release; use device='cpu'"
            )
        if threads is not None:
            require_count("threads", threads)
        self.width = int(width)
        self.encoder_revision = encoder_revision
        self._threads = int(threads) if threads else len(os.sched_getaffinity(0))
        self._stored: NDArray[np.float32] = np.empty((0, self.width), dtype=np.float32)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def vectors(self) -> NDArray[np.float32]:
        """The vectors, float32 ``[len(self), width]``, read-only and not copied."""
        view = self._stored[: self._count]
        view.flags.writeable = False
        return view

    def add(self, vectors: ArrayLike) -> None:
        """Append vectors; their ids go on from ``len(self)``.

        Parameters
        ----------
        vectors : array_like
            ``[n, width]``, float32 or float16. A loaded index is copied into memory first.

        Raises
        ------
        CareError
            Another shape or dtype, or a value that is not finite; the first such row is named. Nothing is
            added then.
        """
        rows = self._checked(vectors, "vectors")
        self._reserve(self._count + len(rows))
        self._stored[self._count : self._count + len(rows)] = rows
        self._count += len(rows)

    def search(self, queries: ArrayLike, k: int = 10) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the k best documents of each query.

        Parameters
        ----------
        queries : array_like
            ``[n, width]`` or one query ``[width]``, float32 or float16.
        k : int

        Returns
        -------
        scores : numpy.ndarray
            float32 ``[n, k]`` (``[k]`` for one query), descending; ``-inf`` where fewer than k vectors are.
        ids : numpy.ndarray
            int64 of the same shape, ascending among equal scores; -1 beside ``-inf``.

        Raises
        ------
        CareError
            Another shape or dtype, a value that is not finite, or k below 1.
        """
        require_count("k", k)
        array = np.asarray(queries)
        rows = self._checked(array[np.newaxis] if array.ndim == 1 else array, "queries")
        scores, ids = _native.scan(self.vectors, rows, k=int(k), threads=self._threads)
        return (scores[0], ids[0]) if array.ndim == 1 else (scores, ids)

    def save(self, folder: str | Path) -> None:
        """Write the index as one folder that only its owner can read.

        An index that is there is replaced; anything else is refused. What is there stays whole if the
        writing is interrupted.

        Raises
        ------
        CareError
            The folder exists and holds no index.
        """
        store.save(Path(folder), self.vectors, self.encoder_revision)

    @classmethod
    def load(cls, folder: str | Path, *, threads: int | None = None) -> ExactIndex:
        """Open a saved index; its vectors are mapped into memory and read when they are first needed.

        Raises
        ------
        CareError
            The folder holds no index, or one that is not whole.
        """
        vectors, revision = store.load(Path(folder))
        index = cls(vectors.shape[1], threads=threads, encoder_revision=revision)
        index._stored, index._count = vectors, len(vectors)
        return index

    def _checked(self, values: ArrayLike, name: str) -> NDArray[np.float32]:
        array = np.asarray(values)
        if array.ndim != 2 or array.shape[1] != self.width:
            raise CareError(f"{name} have shape {list(array.shape)}; they must be [n, {self.width}]")
        if array.dtype not in (np.float32, np.float16):
            raise CareError(
                f"{name} are {array.dtype}; they must be float32 or float16, so that nothing is rounded unsaid"
            )
        rows = np.ascontiguousarray(array, dtype=np.float32)
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            raise CareError(f"{name}: row {int(np.argmin(finite))} holds a value that is not finite")
        return rows

    def _reserve(self, count: int) -> None:
        if count <= len(self._stored) and self._stored.flags.writeable:
            return
        # Doubled, so that adding one by one costs no more than adding at once.
        grown = np.empty((max(count, 2 * self._count, _FIRST_CAPACITY), self.width), dtype=np.float32)
        grown[: self._count] = self._stored[: self._count]
        self._stored = grown

    def __repr__(self) -> str:
        return f"<ExactIndex of {self._count} vectors, width {self.width}>"
