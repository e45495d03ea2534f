"""Exact top-k search by inner product."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from care_accel import _native
from care_accel.errors import CareError, require_count
from care_accel.index import checks, parts, store
from care_accel.index.cuda import CudaScan, is_on_gpu, require_cuda
from care_accel.index.parts import Part, SearchStats


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

    Vectors can be removed and replaced; the ids of the others stay as they are until `compact`. What is added to a saved or
    loaded index becomes a part of its own, so that adding and saving cost what is new; hits do not depend on the parts.

    Several threads may search one index at the same time, also while one other changes it: a search sees the index before or
    after a change. Changes must not overlap; `save` is one.

    Parameters
    ----------
    width : int
        Number of values of a vector.
    device : str
        Where the scan runs: ``"cpu"``, ``"cuda"`` or one GPU such as ``"cuda:1"``. Hits and scores are the same. A GPU
        gets a copy of the vectors and codes that an `add` changed at the first search after it; it supports at most 1,024
        hits and a width of 8,192.
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
        self._parts: tuple[Part, ...] = (Part.empty(self.width, self._gpu),)

    def __len__(self) -> int:
        return sum(part.count for part in self._parts)

    @property
    def vectors(self) -> NDArray[np.float32]:
        """The vectors, removed ones included, read-only float32 ``[len(self), width]``: a view, or a copy of several parts."""
        return parts.vectors(self._parts)

    @property
    def removed(self) -> NDArray[np.bool_]:
        """Which vectors are removed: a read-only mask, bool ``[len(self)]``."""
        return parts.removed(self._parts)

    @property
    def alive(self) -> int:
        """Number of vectors that are not removed."""
        return sum(part.alive_count for part in self._parts)

    def add(self, vectors: ArrayLike, *, convert: bool = False) -> None:
        """Append vectors; their ids continue from ``len(self)``.

        Parameters
        ----------
        vectors : array_like
            ``[n, width]``: an array or a torch tensor in float32, float16 or bfloat16, which are stored as they are, or
            lists of Python numbers, which are rounded to float32. A tensor may require a gradient or be on a GPU.
        convert : bool
            Round arrays and tensors of other dtypes, such as float64, to float32 instead of refusing them.

        Raises
        ------
        CareError
            The shape or dtype is wrong, or a value is not finite; the message names the first such row. Nothing is
            added then.
        """
        rows = checks.checked_rows(
            checks.as_floats(vectors, "vectors", convert=convert), self.width, "vectors"
        )
        self._parts = parts.extended(self._parts, rows, self.threads)

    def remove(self, ids: ArrayLike) -> int:
        """Remove vectors: no search finds them again. The ids of the others stay as they are.

        Parameters
        ----------
        ids : array_like
            Integers ``[n]`` in any order. They may repeat, and vectors may be removed already.

        Returns
        -------
        int
            How many vectors were removed that were not before.

        Raises
        ------
        CareError
            The ids are no integers, or one does not exist. Nothing is removed then.
        """
        before = self.alive
        self._parts = parts.without(self._parts, checks.checked_ids(ids, "ids", len(self)))
        return before - self.alive

    def replace(self, ids: ArrayLike, vectors: ArrayLike, *, convert: bool = False) -> NDArray[np.int64]:
        """Remove vectors and append others in one step: a search finds either the old ones or the new ones.

        Parameters
        ----------
        ids, vectors, convert
            As in `remove` and `add`; there may be more or fewer vectors than ids.

        Returns
        -------
        numpy.ndarray
            int64 ``[n]``: ids of the new vectors.

        Raises
        ------
        CareError
            As in `remove` and `add`. Nothing is changed then.
        """
        rows = checks.checked_rows(
            checks.as_floats(vectors, "vectors", convert=convert), self.width, "vectors"
        )
        count = len(self)
        kept = parts.without(self._parts, checks.checked_ids(ids, "ids", count))
        self._parts = parts.extended(kept, rows, self.threads)
        return np.arange(count, count + len(rows))

    def compact(self) -> NDArray[np.int64]:
        """Drop removed vectors, and join all parts to one in memory. Ids change.

        Returns
        -------
        numpy.ndarray
            int64 ``[len(self)]``: the old id of each new one, ascending.
        """
        kept = np.flatnonzero(~self.removed).astype(np.int64, copy=False)
        if len(self._parts) > 1 or len(kept) < len(self):
            self._parts = (parts.compacted(self._parts, self.threads),)
        return kept

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
            Search only these vectors, without removed ones: a mask, bool ``[len(self)]``, or ids in any order.
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
        array = checks.as_floats(queries, "queries", convert=convert)
        rows = array[np.newaxis] if array.ndim == 1 else array
        exact, ids, rescored = self.search_in_float64(rows, k, width=width, subset=subset, threads=threads)
        scores = checks.to_float32(exact, ids)
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
        array = checks.as_floats(queries, "queries", convert=convert)
        rows = checks.query_rows(array, self.width if width is None else width, self.width, self.order)
        searched = self._parts
        chosen: parts.Chosen = None
        if subset is not None:
            choose = checks.few_or_mask if self._gpu is None else checks.subset_mask
            chosen = choose(subset, sum(part.count for part in searched))
        return parts.search(searched, rows, int(k), int(threads or self.threads), chosen)

    def search_on_device(
        self, queries: Any, k: int = 10, *, subset: ArrayLike | None = None, stream: int | None = None
    ) -> tuple[Any, Any]:
        """Search for queries in the memory of the index's GPU, without waiting for the result.

        Several parts are joined first, in host memory.

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
            checks.require_prefix(int(queries.shape[-1]), self.width, self.order)
        if len(self._parts) > 1:
            self._parts = (parts.joined(self._parts, self.threads),)
        part = self._parts[0]
        mask = None if subset is None else checks.subset_mask(subset, part.count)
        return part.search_on_device(queries, int(k), mask, stream)

    def save(self, folder: str | Path, *, moved_to: str | Path | None = None) -> None:
        """Write the index to a folder that only its owner can read.

        An existing index is replaced; any other folder is refused. If writing is interrupted, the existing index stays
        intact. Vectors that were loaded from or saved to the same file system before are not written again: their files
        appear in both folders, as hard links.

        Parameters
        ----------
        folder : str or Path
        moved_to : str or Path, optional
            Where the caller is going to move the folder, so that the next `save` finds its files.

        Raises
        ------
        CareError
            The folder exists and contains no index.
        """
        index = store.Stored(self._parts, self.width, self.order, self.encoder_revision)
        self._parts = store.save(Path(folder), index, Path(moved_to or folder))

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
        device, threads
            As in `ExactIndex`.
        resident : {"codes", "all"}, optional
            What is read into memory; the rest is memory-mapped. With ``"codes"`` a search reads only the vectors that it
            rescores, from disk, and the index needs a third of its memory or less.
        verify : bool
            Compare checksums. This reads every file once.

        Raises
        ------
        CareError
            The folder contains no index, or a damaged one.
        """
        found = store.load(Path(folder), resident=resident, verify=verify)
        index = cls(found.width, device=device, threads=threads, order=found.order)
        index.encoder_revision = found.encoder_revision
        index._parts = found.parts
        if index._gpu is not None:
            index._parts = tuple(part.searched_by(index._gpu.another()) for part in found.parts)
        return index

    def __repr__(self) -> str:
        removed = len(self) - self.alive
        return f"<ExactIndex of {len(self)} vectors{f', {removed} removed' if removed else ''}, width {self.width}>"
