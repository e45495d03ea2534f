"""Exact top-k search by inner product."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from care_accel import _native
from care_accel.errors import CareError, require_count
from care_accel.index import store
from care_accel.index.checks import as_floats, checked_rows, subset_mask, to_float32
from care_accel.index.codes import Codes
from care_accel.index.cuda import CudaScan, is_on_gpu, require_cuda

_FIRST_CAPACITY = 1024


class SearchStats(NamedTuple):
    """Statistics of a search.

    Attributes
    ----------
    rescored : numpy.ndarray
        int64 ``[n]``: how many vectors were scored exactly for each query; a scalar for one query. With several
        threads it may differ a little between runs; hits do not.
    """

    rescored: NDArray[np.int64]


class ExactIndex:
    """Exact top-k search by inner product, like a flat index of faiss.

    The order is total: higher score first, among equal scores the smaller id. A score is the inner product
    of two float32 vectors. Its products are exact and summed in float64 in a fixed order
    (``csrc/include/care/score.hpp``), so that it does not depend on the batch, the threads or the processor. Scores are
    compared in float64 and returned as float32.

    A search scans int8 codes, and rescores exactly all vectors that the codes cannot prune
    (``csrc/include/care/codes.hpp``). One query over a large index scans int4 codes first. An index takes 5 bytes per value
    and 12 to 28 bytes per vector; from 64 MiB of codes on, 0.75 bytes per value and 12 bytes per vector more. `load` can
    leave the vectors themselves on disk.

    Several threads may search one index at the same time, but not while one adds to it.

    Parameters
    ----------
    width : int
        Number of values of a vector.
    device : str
        Where the scan runs: ``"cpu"``, ``"cuda"`` or one GPU such as ``"cuda:1"``. Hits and scores are the same. A GPU
        gets a copy of vectors and codes at the first search after an `add`; it supports at most 1,024 hits and a width of
        8,192.
    threads : int, optional
        Threads of one search; by default all cores that the process may use.
    encoder_revision : str, optional
        `DualEncoder.revision` of the document encoder that made the vectors. It is saved with the index, and a
        `Retriever` refuses a model with another one.
    order : {"normalize-then-slice", "slice-then-normalize"}
        How the encoder truncates vectors (`EncoderSpec.order`). Only the first kind can be searched by a prefix.

    Attributes
    ----------
    threads : int
        Default number of threads of a search; may be changed.
    device : str
        Where the scan runs.

    Raises
    ------
    CareError
        The width is not 1 to 65,536, threads is below 1, or the device or order is unknown.
    """

    def __init__(
        self,
        width: int,
        *,
        device: str = "cpu",
        threads: int | None = None,
        encoder_revision: str | None = None,
        order: str = store.ORDERS[0],
    ) -> None:
        require_count("width", width)
        if width > _native.MAX_WIDTH:
            raise CareError(f"width is {width}; at most {_native.MAX_WIDTH:,}")
        if order not in store.ORDERS:
            raise CareError(f"order is {order!r}; it must be one of {', '.join(store.ORDERS)}")
        self._gpu = None if device == "cpu" else CudaScan(require_cuda(device), int(width))
        if threads is not None:
            require_count("threads", threads)
        self.width = int(width)
        self.device = device
        self.encoder_revision = encoder_revision
        self.order = order
        self.threads = int(threads) if threads else len(os.sched_getaffinity(0))
        self._stored: NDArray[np.float32] = np.empty((0, self.width), dtype=np.float32)
        self._count = 0
        self._codes = Codes(self.width)

    def __len__(self) -> int:
        return self._count

    @property
    def vectors(self) -> NDArray[np.float32]:
        """A read-only view of the vectors, float32 ``[len(self), width]``."""
        view = self._stored[: self._count]
        view.flags.writeable = False
        return view

    def add(self, vectors: ArrayLike, *, convert: bool = False) -> None:
        """Append vectors; their ids continue from ``len(self)``.

        Parameters
        ----------
        vectors : array_like
            ``[n, width]``: an array or a torch tensor in float32, float16 or bfloat16, which are stored as they are, or
            lists of Python numbers, which are rounded to float32. A tensor may require a gradient or be on a GPU. A loaded
            index is copied into memory first.
        convert : bool
            Round arrays and tensors of other dtypes, such as float64, to float32 instead of refusing them.

        Raises
        ------
        CareError
            The shape or dtype is wrong, or a value is not finite; the message names the first such row. Nothing is
            added then.
        """
        rows = checked_rows(as_floats(vectors, "vectors", convert=convert), self.width, "vectors")
        self._reserve(self._count + len(rows))
        self._stored[self._count : self._count + len(rows)] = rows
        self._codes.update(self._stored[: self._count + len(rows)], self.threads)
        self._count += len(rows)

    @overload
    def search(
        self,
        queries: ArrayLike,
        k: int = ...,
        *,
        width: int | None = ...,
        subset: ArrayLike | None = ...,
        threads: int | None = ...,
        convert: bool = ...,
        return_stats: Literal[False] = ...,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]: ...

    @overload
    def search(
        self,
        queries: ArrayLike,
        k: int = ...,
        *,
        width: int | None = ...,
        subset: ArrayLike | None = ...,
        threads: int | None = ...,
        convert: bool = ...,
        return_stats: Literal[True],
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], SearchStats]: ...

    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        *,
        width: int | None = None,
        subset: ArrayLike | None = None,
        threads: int | None = None,
        convert: bool = False,
        return_stats: bool = False,
    ) -> (
        tuple[NDArray[np.float32], NDArray[np.int64]]
        | tuple[NDArray[np.float32], NDArray[np.int64], SearchStats]
    ):
        """Return the k best documents of each query.

        Parameters
        ----------
        queries : array_like
            ``[n, self.width]`` or one query ``[self.width]``; with ``width`` they may be as narrow as that. Types as in
            `add`: float32, float16 and bfloat16, and lists of Python numbers.
        k : int
        width : int, optional
            Compare only a prefix of so many values (Matryoshka).
        subset : array_like, optional
            Search only these vectors: a mask, bool ``[len(self)]``, or ids in any order.
        threads : int, optional
            By default `threads` of the index.
        convert : bool
            Round queries of other dtypes, such as float64, to float32, as in `add`.
        return_stats : bool

        Returns
        -------
        scores : numpy.ndarray
            float32 ``[n, k]`` (``[k]`` for one query), descending; padded with ``-inf`` if there are fewer than k
            vectors.
        ids : numpy.ndarray
            int64 of the same shape, ascending among equal scores; padded with -1.
        stats : SearchStats
            If ``return_stats``.

        Raises
        ------
        CareError
            The shape or dtype is wrong, a value is not finite, k is below 1, a score is out of the range of float32, an
            id does not exist, or ``width`` is given for an index whose truncated vectors have to be normalised again.
        """
        array = as_floats(queries, "queries", convert=convert)
        rows = array[np.newaxis] if array.ndim == 1 else array
        exact, ids, rescored = self.search_in_float64(rows, k, width=width, subset=subset, threads=threads)
        scores = to_float32(exact, ids)
        if array.ndim == 1:
            scores, ids, rescored = scores[0], ids[0], rescored[0]
        return (scores, ids, SearchStats(rescored)) if return_stats else (scores, ids)

    def search_in_float64(
        self,
        queries: ArrayLike,
        k: int = 10,
        *,
        width: int | None = None,
        subset: ArrayLike | None = None,
        threads: int | None = None,
        convert: bool = False,
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        """Return scores in float64 ``[n, k]``, by which hits are ranked, ids, and rescored counts; see `search`."""
        require_count("k", k)
        if threads is not None:
            require_count("threads", threads)
        rows = self._prefix(as_floats(queries, "queries", convert=convert), width)
        allowed = None if subset is None else self._allowed(subset)
        if self._gpu is not None:
            return self._gpu.search(self.vectors, self._codes, rows, int(k), allowed)
        return _native.search(
            self.vectors,
            **self._codes.search_arguments(),
            queries=rows,
            k=int(k),
            threads=int(threads or self.threads),
            allowed=allowed,
        )

    def search_on_device(
        self, queries: Any, k: int = 10, *, subset: ArrayLike | None = None, stream: int | None = None
    ) -> tuple[Any, Any]:
        """Search for queries in the memory of the index's GPU, without waiting for the result.

        Parameters
        ----------
        queries : array of torch, CuPy or another library that supports DLPack
            float32 ``[n, width]``, row-major. Values must be finite, which is not checked. Narrower queries search a prefix.
        k : int
        subset : array_like, optional
            As in `search`, in host memory.
        stream : int, optional
            The CUDA stream; by default the current stream of torch or CuPy.

        Returns
        -------
        scores, ids : arrays of the same library
            float32 and int64 ``[n, k]`` on the GPU, as in `search`; a score out of the range of float32 is infinite. Their
            memory is freed on the stream of the search: keep them until other streams have finished with them.

        Raises
        ------
        CareError
            The index is not on the GPU of the queries, or the shape, dtype or k is wrong.
        """
        require_count("k", k)
        if self._gpu is None or not is_on_gpu(queries):
            raise CareError(
                "search_on_device needs an index with device='cuda' and queries on its GPU; otherwise use search"
            )
        if queries.shape[-1] != self.width:
            self._require_prefix(int(queries.shape[-1]))
        allowed = None if subset is None else self._allowed(subset)
        return self._gpu.search_on_device(self.vectors, self._codes, queries, int(k), allowed, stream)

    def _prefix(self, array: NDArray[np.float32 | np.float16], width: int | None) -> NDArray[np.float32]:
        if width is None or width == self.width:
            return checked_rows(array, self.width, "queries")
        self._require_prefix(width)
        if array.ndim == 2 and array.shape[1] == self.width:
            array = array[:, :width]
        return checked_rows(array, width, "queries")

    def _require_prefix(self, width: int) -> None:
        require_count("width", width)
        if width > self.width:
            raise CareError(f"width is {width}; the index has {self.width}")
        if self.order != "normalize-then-slice":
            raise CareError(
                f"width is {width}, but the encoder of this index normalises after it slices, so a prefix is not a "
                f"normalised vector; encode the documents at width {width} and index them"
            )

    def _allowed(self, subset: ArrayLike) -> NDArray[np.uint16]:
        """Return a bit mask, one 16-bit word per block."""
        mask = np.zeros(-(-self._count // _native.BLOCK) * _native.BLOCK, dtype=bool)
        mask[: self._count] = subset_mask(subset, self._count)
        return np.packbits(mask, bitorder="little").view("<u2").astype(np.uint16, copy=False)

    def save(self, folder: str | Path) -> None:
        """Write the index to a folder that only its owner can read.

        An existing index is replaced; any other folder is refused. If writing is interrupted, the existing index stays
        intact.

        Raises
        ------
        CareError
            The folder exists and contains no index.
        """
        store.save(Path(folder), store.Stored(self.vectors, self._codes, self.order, self.encoder_revision))

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str = "cpu",
        threads: int | None = None,
        resident: Literal["codes", "all"] | None = None,
        verify: bool = True,
    ) -> ExactIndex:
        """Open a saved index.

        Parameters
        ----------
        folder : str or Path
        device : str
            As in `ExactIndex`.
        threads : int, optional
        resident : {"codes", "all"}, optional
            What is read into memory; the rest is memory-mapped. With ``"codes"`` a search reads from disk only the
            vectors that it rescores, and the index needs a third of its memory or less.
        verify : bool
            Compare checksums. This reads every file once.

        Raises
        ------
        CareError
            The folder contains no index, or a damaged one.
        """
        if resident not in (None, "codes", "all"):
            raise CareError(f"resident is {resident!r}; it must be 'codes', 'all' or None")
        found = store.load(Path(folder), resident=resident, verify=verify)
        index = cls(
            found.vectors.shape[1],
            device=device,
            threads=threads,
            encoder_revision=found.encoder_revision,
            order=found.order,
        )
        index._stored, index._count, index._codes = found.vectors, len(found.vectors), found.codes
        return index

    def _reserve(self, count: int) -> None:
        if count <= len(self._stored) and self._stored.flags.writeable:
            return
        # Capacity doubles, so that adding vectors one by one costs as much as adding them at once.
        grown = np.empty((max(count, 2 * self._count, _FIRST_CAPACITY), self.width), dtype=np.float32)
        grown[: self._count] = self._stored[: self._count]
        self._stored = grown

    def __repr__(self) -> str:
        return f"<ExactIndex of {self._count} vectors, width {self.width}>"
