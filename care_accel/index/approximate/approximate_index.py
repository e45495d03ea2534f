"""Approximate top-k search by inner product, with a recall that was asked for and proven."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from care_accel.errors import CareError, require_count
from care_accel.index import checks, parts
from care_accel.index.approximate import files
from care_accel.index.approximate.building import Request, build
from care_accel.index.approximate.changing import ChangingIndex
from care_accel.index.approximate.choice import Choice, Measured
from care_accel.index.approximate.finder import Finder
from care_accel.index.approximate.library import require_gpu
from care_accel.index.approximate.low_priority import in_background
from care_accel.index.approximate.state import State, count
from care_accel.index.approximate.watching import EVERY, RecallWatch
from care_accel.index.exact import ExactIndex
from care_accel.index.parts import Found, SearchStats
from care_accel.index.store import Stored


class ApproximateIndex(ChangingIndex):
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
    width, encoder_revision, order, device, threads
        As in `ExactIndex`.
    """

    def __init__(
        self, index: Stored, built: int, choice: Choice, finder: Finder | None, *, device: str, threads: int
    ) -> None:
        """Use the parts of an index; call `build` or `load` instead."""
        super().__init__(index, built, choice, finder, device=device, threads=threads)
        self._watch: RecallWatch | None = None
        self._building: Future[Choice] | None = None

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
        convert: bool = False,
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
            Real queries ``[n, width]``. A third tunes, two thirds are kept apart for the proof: a recall of 0.99 needs 490 at
            least (790 for k = 1), one of 0.999 4,900, and ten times as many allow a faster choice. Without them queries are sampled: documents, each
            moved by half the difference of two others, for which the recall of real queries may differ; a warning says so.
        memory : int or str, optional
            What the structure may take beside the exact index: bytes, or a str such as ``"2 GB"``.
        budget : float or str
            Seconds, or a str such as ``"5 min"``: how long it may take. The exact answers of the queries are found in any case. What
            follows is not begun if it would end later by its estimate, and ended if it does, after the step that runs then:
            16,384 vectors that are put into lists, a 24th of a graph, 500 queries. What could not be tried is in the report.
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
        convert : bool
            As in `ExactIndex.add`, of vectors and queries.
        show_progress : bool

        Raises
        ------
        CareError
            An argument is wrong; faiss is missing; there are too few queries to prove the recall; nothing fits into the memory.
        """
        exact = (
            vectors
            if isinstance(vectors, ExactIndex)
            else _indexed(vectors, device or "cpu", threads, convert)
        )
        request = Request.checked(
            recall,
            k,
            memory=memory,
            budget=budget,
            seed=seed,
            device=device or exact.device,
            family=family,
            threads=exact.threads if threads is None else threads,
            show_progress=show_progress,
        )
        if device not in (None, exact.device):
            raise CareError(
                f"device is {device!r}, but the index is on {exact.device}; load it with device={device!r}"
            )
        rows = None
        if queries is not None:
            array = checks.as_floats(queries, "queries", convert=convert)
            rows = checks.checked_rows(array, exact.width, "queries")
            if not len(rows):
                raise CareError("there are no queries; give some, or queries=None to sample them")
        index = Stored(exact._parts, exact.width, exact.order, exact.encoder_revision)
        choice, finder = build(index.parts, exact.width, rows, request)
        return cls(index, len(exact), choice, finder, device=exact.device, threads=request.threads)

    @overload
    def rebuild(
        self, *, queries: ArrayLike | None = ..., show_progress: bool = ..., background: Literal[False] = ...
    ) -> Self: ...

    @overload
    def rebuild(
        self, *, queries: ArrayLike | None = ..., show_progress: bool = ..., background: Literal[True]
    ) -> Future[Choice]: ...

    def rebuild(
        self, *, queries: ArrayLike | None = None, show_progress: bool = False, background: bool = False
    ) -> Self | Future[Choice]:
        """Build again, by the same request, of all vectors that are there now; ids stay.

        Parameters
        ----------
        queries, show_progress
            As in `build`.
        background : bool
            Return at once, build on a thread of low priority, and have this index search by the result from then on. Searches and
            changes go on meanwhile; what was added since is scanned exactly, what was removed is not found. If it is being built
            already, that build goes on, and its future is returned.

        Returns
        -------
        ApproximateIndex
            Another one. In the background a `concurrent.futures.Future` with the `Choice`, or with the error.
        """
        if not background:
            return self._rebuilt(self._state, queries, show_progress)
        with self._changing:
            if self._building is None or self._building.done():
                self._state = state = self._state.fixing()
                self._building = in_background(
                    lambda: self._take(self._rebuilt(state, queries, show_progress)), "rebuild"
                )
            return self._building

    def _rebuilt(self, state: State, queries: ArrayLike | None, show_progress: bool) -> Self:
        asked = state.choice
        return self.build(
            self._exact(state),
            asked.asked,
            asked.k,
            queries=queries,
            seed=asked.seed,
            show_progress=show_progress,
            **asked.options,
        )

    def _take(self, other: ApproximateIndex) -> Choice:
        """Search by what another index has found, which was built of what this one was at `State.fixing`."""
        with self._changing:
            self._state = self._state.rebuilt(other.choice, other.finder)
        return other.choice

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
        # One query, as most often, where each microsecond counts.
        found = self._find_one(queries, k, threads) if width is None and subset is None else None
        if found is None:
            queries = checks.as_floats(queries, "queries", convert=convert)
            rows = queries[np.newaxis] if queries.ndim == 1 else queries
            found = self._find(rows, k, width, subset, threads)
        exact, ids, rescored = found
        scores = checks.to_float32(exact, ids)
        if queries.ndim == 1:  # type: ignore[union-attr]
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
        if width is None and subset is None and getattr(queries, "ndim", None) == 2:
            found = self._find_one(queries, k, threads)
            if found is not None:
                return found
        return self._find(checks.as_floats(queries, "queries", convert=convert), k, width, subset, threads)

    def _find_one(self, query: Any, k: Any, threads: int | None) -> Found | None:
        """Return the hits of one query that needs no more checks, if the structure finds them; else None."""
        if threads is not None:
            require_count("threads", threads)
        state = self._state
        found = state.find_one(query, k)
        if found is not None and self._watch is not None:
            self._watch.note(state.choice, query.reshape(1, -1), found[0], state.exact(None))
        return found

    def _find(
        self,
        array: NDArray[np.float32 | np.float16],
        k: int,
        width: int | None,
        subset: ArrayLike | None,
        threads: int | None,
    ) -> Found:
        require_count("k", k)
        if threads is not None:
            require_count("threads", threads)
        rows = checks.query_rows(array, self.width if width is None else width, self.width, self.order)
        many, state = int(threads or self.threads), self._state
        chosen: parts.Chosen = None
        if subset is not None:
            choose = checks.few_or_mask if self.device == "cpu" else checks.subset_mask
            chosen = choose(subset, count(state.parts))
        found = state.search(rows, int(k), many, chosen)
        if self._watch is not None and state.approximates(rows, int(k), chosen):
            self._watch.note(state.choice, rows, found[0], state.exact(chosen))
        return found

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
        with self._changing:
            state = self._state
            index = Stored(state.parts, self.width, self.order, self.encoder_revision)
            saved = files.save(
                Path(folder), index, state.built, state.choice, state.finder, Path(moved_to or folder)
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
        return f"<ApproximateIndex of {len(self)} vectors, width {self.width}, {self.choice.name}, recall {self.choice.asked:.9g}>"


def _indexed(vectors: ArrayLike, device: str, threads: int | None, convert: bool) -> ExactIndex:
    array = checks.as_floats(vectors, "vectors", convert=convert)
    if array.ndim != 2 or not array.shape[1]:
        raise CareError(f"vectors have shape {list(array.shape)}; they must be [n, width]")
    index = ExactIndex(array.shape[1], device=device, threads=threads)
    index.add(array)
    return index
