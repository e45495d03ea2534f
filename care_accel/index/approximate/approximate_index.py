"""Approximate top-k search by inner product, with a recall that was asked for and proven."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from care_accel.errors import CareError, require_count
from care_accel.index import checks, parts
from care_accel.index.approximate import files
from care_accel.index.approximate.arguments import checked_recall, in_bytes, in_seconds
from care_accel.index.approximate.building import Request, build
from care_accel.index.approximate.choice import STALE, Choice, Measured
from care_accel.index.approximate.finder import Finder
from care_accel.index.approximate.library import require_gpu
from care_accel.index.approximate.state import State, count
from care_accel.index.approximate.watching import EVERY, RecallWatch
from care_accel.index.exact import ExactIndex
from care_accel.index.parts import Found, Part, SearchStats
from care_accel.index.store import Stored


class ApproximateIndex:
    """Top-k search by inner product that finds at least the share of the k best hits that was asked for.

    Made by `build`, which tries structures of faiss for these vectors, and keeps the fastest that proves the recall on queries that
    took no part in the choice; or the exact scan where that is faster or nothing else reaches the recall (`explain`, `report`).

    Candidates are scored exactly: scores, their order and ties are those of `ExactIndex` for whatever is found. What is
    approximate is which vectors are found. These searches are exact scans: with a ``k`` larger than was built for; with a ``width``;
    of a subset smaller than was measured to be faster and to keep the recall (`Choice.least_share`); of many queries at once, where
    that is faster (`Choice.exact_from`); and for a query for which faiss finds fewer than k.

    The recall is a mean over queries, with a confidence of 95 %, for queries like those of the build. A single query may find less,
    and so may a smaller ``k`` or a filter that excludes just what is near its queries.

    Vectors that are added are scanned exactly beside the structure until it is built again (`stale`, `rebuild`). Several threads may
    search one index at the same time, also while one other changes it, as in `ExactIndex`.

    Attributes
    ----------
    choice : Choice
        How it was chosen, with all that was measured.
    width, encoder_revision, order, device, threads
        As in `ExactIndex`.
    """

    def __init__(
        self, index: Stored, built: int, choice: Choice, finder: Finder | None, *, device: str, threads: int
    ) -> None:
        """Use the parts of an index; call `build` or `load` instead."""
        self.width = index.width
        self.order = index.order
        self.encoder_revision = index.encoder_revision
        self.device = device
        self.threads = threads
        self.choice = choice
        self._watch: RecallWatch | None = None
        end = 0
        while count(index.parts[:end]) < built:
            end += 1
        base = index.parts[:end] or (Part.empty(self.width),)
        self._state = State(base, index.parts[end:], choice, finder)

    @classmethod
    def build(
        cls,
        vectors: ExactIndex | ArrayLike,
        recall: float = 0.99,
        k: int = 10,
        *,
        queries: ArrayLike | None = None,
        memory: int | str | None = None,
        budget: float | str = "5 min",
        seed: int = 0,
        device: str | None = None,
        family: Sequence[str] | None = None,
        threads: int | None = None,
        show_progress: bool = False,
    ) -> Self:
        """Choose and build the fastest index that has a recall.

        Parameters
        ----------
        vectors : ExactIndex or array_like
            An index, whose vectors are shared, not copied, and which does not change; or vectors ``[n, width]`` as in
            `ExactIndex.add`.
        recall : float
            Between 0 and 1: the least mean share of the k best hits that is found.
        k : int
            How many hits; a search for more is exact.
        queries : array_like, optional
            Real queries ``[n, width]``. A third tunes, two thirds are kept apart for the proof: a recall of 0.99 needs some 560,
            one of 0.999 some 5,600, and ten times as many allow a faster choice. Without them queries are sampled: documents, each
            moved by half the difference of two others, for which the recall of real queries may differ; a warning says so.
        memory : int or str, optional
            What the structure may take beside the exact index: bytes, or a str such as ``"2 GB"``.
        budget : float or str
            Seconds, or a str such as ``"5 min"``: about how long it may take. What could not be tried is in the report.
        seed : int
            Of the sample, the split and the structures. Recalls are reproducible by it, but for graphs that several threads build;
            times are not, so that of settings that take about as long another one may be chosen.
        device : str, optional
            ``"cpu"``, ``"cuda"`` or one GPU; by default that of the index. A GPU needs faiss-gpu, and has lists of vectors and int8
            codes only; subsets and removals are scanned exactly there.
        family : sequence of str, optional
            Try these structures only: HNSW32,Flat, HNSW32,SQ8, and IVF with a number of lists and Flat, SQ8, PQ or RaBitQ, such as
            IVF1024,SQ8. By default all, with several numbers of lists.
        threads : int, optional
            As in `ExactIndex`. One query uses one of them in the structure, several queries all.
        show_progress : bool

        Raises
        ------
        CareError
            An argument is wrong; faiss is missing; there are too few queries to prove the recall; nothing fits into the memory.
        """
        wanted = checked_recall(recall)
        require_count("k", k)
        limit, seconds = in_bytes(memory), in_seconds(budget)
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
            raise CareError(f"seed is {seed!r}; it must be an integer of 0 to 2**31 - 1")
        exact = vectors if isinstance(vectors, ExactIndex) else _indexed(vectors, device or "cpu", threads)
        where = device or exact.device
        gpu = None if where == "cpu" else require_gpu(where)
        if where != exact.device:
            raise CareError(
                f"device is {where!r}, but the index is on {exact.device}; load it with device={where!r}"
            )
        if isinstance(family, str) or (
            family is not None and not all(isinstance(name, str) for name in family)
        ):
            raise CareError(f"family is {family!r}; it must be a list of names, such as ['HNSW32,Flat']")
        if threads is not None:
            require_count("threads", threads)
        rows = None
        if queries is not None:
            rows = checks.checked_rows(checks.as_floats(queries, "queries"), exact.width, "queries")
            if not len(rows):
                raise CareError("there are no queries; give some, or queries=None to sample them")
        request = Request(
            recall=wanted,
            k=int(k),
            memory=limit,
            budget=seconds,
            seed=seed,
            gpu=gpu,
            family=tuple(family) if family else None,
            threads=int(threads or exact.threads),
            show_progress=show_progress,
        )
        index = Stored(exact._parts, exact.width, exact.order, exact.encoder_revision)
        choice, finder = build(index.parts, exact.width, rows, request)
        return cls(index, len(exact), choice, finder, device=where, threads=request.threads)

    def rebuild(self, *, queries: ArrayLike | None = None, show_progress: bool = False) -> Self:
        """Return an index that is built again, by the same request, of all vectors that are there now; ids stay.

        Parameters
        ----------
        queries, show_progress
            As in `build`.
        """
        choice = self.choice
        return self.build(
            self._exact(),
            choice.asked,
            choice.k,
            queries=queries,
            seed=choice.seed,
            show_progress=show_progress,
            **choice.options,
        )

    def __len__(self) -> int:
        return count(self._state.parts)

    @property
    def finder(self) -> Finder | None:
        """What finds candidates among the vectors that it was built of; None if every search is an exact scan."""
        return self._state.finder

    @property
    def vectors(self) -> NDArray[np.float32]:
        """The vectors, removed ones included, read-only float32 ``[len(self), width]``; a copy if there are several parts."""
        return parts.vectors(self._state.parts)

    @property
    def removed(self) -> NDArray[np.bool_]:
        """Which vectors are removed: a read-only mask, bool ``[len(self)]``."""
        return parts.removed(self._state.parts)

    @property
    def alive(self) -> int:
        """Number of vectors that are not removed."""
        return sum(part.alive_count for part in self._state.parts)

    @property
    def stale(self) -> bool:
        """Whether so much was added and removed since the build (a fifth of its vectors) that it should be built again.

        Hits of a stale index are as good as before: what was added is scanned exactly, what was removed is not found. But a search
        takes longer than it has to, and its recall was proven for other vectors.
        """
        return self._state.changed > STALE * max(self.choice.vectors, 1)

    def add(self, vectors: ArrayLike, *, convert: bool = False) -> None:
        """Append vectors, which are searched exactly from now on; see `ExactIndex.add`."""
        rows = checks.checked_rows(
            checks.as_floats(vectors, "vectors", convert=convert), self.width, "vectors"
        )
        self._state = self._state.extended(rows, self.threads)

    def remove(self, ids: ArrayLike) -> int:
        """Remove vectors; return how many were removed that were not before. See `ExactIndex.remove`."""
        before = self.alive
        self._state = self._state.without(checks.checked_ids(ids, "ids", len(self)))
        return before - self.alive

    def replace(self, ids: ArrayLike, vectors: ArrayLike, *, convert: bool = False) -> NDArray[np.int64]:
        """Remove vectors and append others in one step; return the ids of the new ones. See `ExactIndex.replace`."""
        rows = checks.checked_rows(
            checks.as_floats(vectors, "vectors", convert=convert), self.width, "vectors"
        )
        before = len(self)
        kept = self._state.without(checks.checked_ids(ids, "ids", before))
        self._state = kept.extended(rows, self.threads)
        return np.arange(before, before + len(rows))

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
        """Return the k best documents that are found for each query; parameters, results and errors are those of `ExactIndex.search`."""
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
    ) -> Found:
        """Return scores in float64 ``[n, k]``, by which hits are ranked, ids, and rescored counts; see `search`."""
        require_count("k", k)
        if threads is not None:
            require_count("threads", threads)
        array = checks.as_floats(queries, "queries", convert=convert)
        rows = checks.query_rows(array, self.width if width is None else width, self.width, self.order)
        many, state = int(threads or self.threads), self._state
        chosen: parts.Chosen = None
        if subset is not None:
            choose = checks.few_or_mask if self.device == "cpu" else checks.subset_mask
            chosen = choose(subset, count(state.parts))
        found = state.search(rows, int(k), many, chosen)
        if self._watch is not None and state.approximates(rows, int(k), chosen):
            self._watch.note(self.choice, rows, found[0], state.exact(chosen))
        return found

    def exact_hits(
        self, queries: ArrayLike, k: int = 10, *, subset: ArrayLike | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return what an exact scan of the same vectors finds, to compare; see `ExactIndex.search`."""
        return self._exact().search(queries, k, subset=subset)

    def _exact(self) -> ExactIndex:
        whole = ExactIndex(
            self.width, threads=self.threads, encoder_revision=self.encoder_revision, order=self.order
        )
        whole._parts, whole.device = self._state.parts, self.device
        return whole

    def watch(self, watch: RecallWatch | None = None, *, every: int = EVERY) -> RecallWatch:
        """Answer every ``every``-th query that is searched approximately exactly as well, from now on; see `RecallWatch`.

        Parameters
        ----------
        watch : RecallWatch, optional
            Use this one, with its ``every``.
        every : int
        """
        self._watch = watch or RecallWatch(every)
        return self._watch

    @property
    def observed(self) -> Measured | None:
        """The recall in use, by `watch`; None if it was not called, or no query was checked."""
        return None if self._watch is None else self._watch.observed

    def explain(self) -> str:
        """Return why it searches as it does, in one line."""
        stale = "; much was added or removed since: rebuild()" if self.stale else ""
        return f"{self.choice.why}{stale}"

    def report(self) -> None:
        """Print how it was chosen: the choice, its proof, and a table of all that was tried."""
        print(self.choice.text())

    def save(self, folder: str | Path, *, moved_to: str | Path | None = None) -> None:
        """Write the index to a folder that only its owner can read; see `ExactIndex.save`.

        The folder in it called ``vectors`` is an exact index of the same vectors, which `ExactIndex.load` opens.
        """
        state = self._state
        index = Stored(state.parts, self.width, self.order, self.encoder_revision)
        saved = files.save(
            Path(folder), index, state.built, self.choice, state.finder, Path(moved_to or folder)
        )
        self._state = state.saved(saved)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str = "cpu",
        threads: int | None = None,
        resident: Literal["codes", "all"] | None = None,
        verify: bool = True,
    ) -> Self:
        """Open a saved index; parameters are those of `ExactIndex.load`.

        Raises
        ------
        CareError
            The folder has no such index, or a damaged one; its vectors are not those that the structure was built of; or its
            structure is of another release of faiss.
        """
        index, built, choice, finder = files.load(Path(folder), resident=resident, verify=verify)
        exact = ExactIndex(index.width, device=device, threads=threads, order=index.order)
        if exact._gpu is not None:
            if finder is not None:
                finder.structure.moved_to_gpu(require_gpu(device))
                finder = replace(finder)  # with parameters for it
            index = replace(
                index, parts=tuple(part.searched_by(exact._gpu.another()) for part in index.parts)
            )
        return cls(index, built, choice, finder, device=device, threads=exact.threads)

    def __repr__(self) -> str:
        return f"<ApproximateIndex of {len(self)} vectors, width {self.width}, {self.choice.name}, recall {self.choice.asked:g}>"


def _indexed(vectors: ArrayLike, device: str, threads: int | None) -> ExactIndex:
    array = checks.as_floats(vectors, "vectors")
    if array.ndim != 2 or not array.shape[1]:
        raise CareError(f"vectors have shape {list(array.shape)}; they must be [n, width]")
    index = ExactIndex(array.shape[1], device=device, threads=threads)
    index.add(array)
    return index
