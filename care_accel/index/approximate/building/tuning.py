"""The search for settings: of each structure the smallest that reaches a recall on the tuning queries.

Recall grows with each setting, so that bisection finds the smallest one in some six searches of the tuning queries. faiss's own
`ParameterSpace.explore` measures batches, without this index's rescoring, and knows no bounds of a recall; a general optimiser such as
Optuna needs more trials for what is monotone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from care_accel.index.approximate import family
from care_accel.index.approximate.building.questions import Asked
from care_accel.index.approximate.choice import ERROR, Measured, Tried, setting_name
from care_accel.index.approximate.family import Kind, Structure, TooSlowError
from care_accel.index.approximate.finder import Finder
from care_accel.index.approximate.recall import exceeds, lower_bound, recalls, upper_bound
from care_accel.index.parts import Part

# Queries are answered in blocks, and the rest is left out once it is clear that the recall is not reached.
_BLOCKS = (200, 800)
_CLEAR = 0.01
_TIMED = 48
# A setting that takes so many times as long as the exact scan is not worth its recall.
_QUICKLY_TIMED = 7
_TOO_SLOW = 2
_MISSED, _SLOW, _OVER = "does not reach the recall", "slower than the exact scan", "time is over"
# Structures that are kept for the final choice; each takes memory.
_KEPT = 2
_LINKS = 32


@dataclass
class Candidate:
    """A structure with the smallest setting that reaches the recall, and how long one query takes with it."""

    finder: Finder
    p50: float


@dataclass
class Tuner:
    """Builds and tunes structures.

    Parameters
    ----------
    base : sequence of Part
    ids : numpy.ndarray or None
        Ids of the vectors that are not removed; None for all.
    vectors : numpy.ndarray
        float32 ``[n, width]``: these.
    asked : Asked
        The tuning queries.
    recall : float
    k, threads, seed : int
    memory : int or None
        What a structure may take, in bytes.
    until : float
        When to end, by `perf_counter`.
    gpu : int, optional
        Number of the GPU that searches.
    exact_seconds : float
        What the exact scan takes for one query; settings that take much longer are not tried.
    """

    base: Sequence[Part]
    ids: NDArray[np.int64] | None
    vectors: NDArray[np.float32]
    asked: Asked
    recall: float
    k: int
    threads: int
    seed: int
    memory: int | None
    until: float
    gpu: int | None = None
    exact_seconds: float = math.inf
    tried: list[Tried] = field(default_factory=list)
    kept: list[Candidate] = field(default_factory=list)
    _lists: dict[int, family.Lists] = field(default_factory=dict)

    def family(self, names: Sequence[str] | None) -> list[Callable[[], Kind]]:
        """Return the kinds to try, in order: codes are tried with the number of lists that was best before."""
        if names is not None:
            kinds = [family.parse(name, len(self.vectors)) for name in names]
            return [lambda kind=kind: kind for kind in kinds]  # type: ignore[misc]
        lists = family.lists_tried(len(self.vectors))
        codes = family.GPU_CODES if self.gpu is not None else family.CODES
        found: list[Callable[[], Kind]] = []
        if lists:
            # The number of lists is chosen with the first codes that fit, the other codes are tried with that number.
            first = next((one for one in codes if self._fits(Kind(0, lists[-1], one))), codes[-1])
            found += [lambda n=n: Kind(0, n, first) for n in lists]  # type: ignore[misc]
            found += [lambda one=one: Kind(0, self._best_lists(lists), one) for one in codes if one != first]  # type: ignore[misc]
        if self.gpu is None:
            found += [lambda one=one: Kind(_LINKS, 0, one) for one in ("SQ8", "Flat")]  # type: ignore[misc]
        return found

    def _fits(self, kind: Kind) -> bool:
        return self.memory is None or kind.estimated_bytes(*self.vectors.shape) <= self.memory

    def _best_lists(self, lists: Sequence[int]) -> int:
        timed = [
            (one.p50_us, one.name)
            for one in self.tried
            if one.p50_us is not None and one.name.startswith("IVF")
        ]
        if not timed:  # of those that were found in time, the most
            return max(self._lists, default=lists[0])
        return int(min(timed)[1].partition(",")[0].removeprefix("IVF"))

    def smallest(self, names: Sequence[str] | None) -> int:
        """Return about what the smallest structure takes, in bytes."""
        kinds = [member() for member in self.family(names)]
        return min(kind.estimated_bytes(*self.vectors.shape) for kind in kinds)

    def consider(self, kind: Kind, share: float) -> None:
        """Build and tune a structure within a share of the time that is left, and keep it if it is among the fastest."""
        name = kind.name(self.vectors.shape[1])
        if not self._fits(kind):
            size = kind.estimated_bytes(*self.vectors.shape)
            self.tried.append(Tried(name, bytes=size, note="over the memory limit, by its estimate"))
            return
        begun = perf_counter()
        if begun > self.until:
            self.tried.append(Tried(name, note=_OVER))
            return
        limit = min(self.until, begun + share * (self.until - begun))
        try:
            structure = family.build(
                kind,
                self.vectors,
                seconds=limit - begun,
                seed=self.seed,
                threads=self.threads,
                lists=self._lists,
            )
        except TooSlowError as slow:
            self.tried.append(Tried(name, note=str(slow), build_seconds=perf_counter() - begun))
            return
        if self.gpu is not None:
            structure.moved_to_gpu(self.gpu)
        seconds, size = perf_counter() - begun, structure.bytes()
        if self.memory is not None and size > self.memory:
            self.tried.append(Tried(name, bytes=size, build_seconds=seconds, note="over the memory limit"))
            return
        found = self._tuned(kind, structure, size, seconds)
        if found is not None:
            self.kept = sorted([*self.kept, found], key=lambda one: one.p50)[:_KEPT]

    def _tuned(self, kind: Kind, structure: Structure, size: int, seconds: float) -> Candidate | None:
        best: Candidate | None = None
        high: int | None = None
        for factor in kind.factors:
            wanted = family.candidates(self.k, factor)
            if wanted > len(self.vectors) // 2 and factor > kind.factors[0]:
                break
            finder, shown, note = self._smallest(kind, structure, wanted, high)
            p50 = None if finder is None else self._median_time(finder, _TIMED)
            value, observed = (0, None) if shown is None else shown
            setting = f"{setting_name(structure.name)} {value}, {wanted} rescored"
            recall = None if observed is None else measured(observed)
            self.tried.append(Tried(structure.name, setting, recall, p50 and p50 * 1e6, size, seconds, note))
            if finder is not None and p50 is not None:
                high = None if kind.links else finder.value  # more candidates need no more lists
                if best is None or p50 < best.p50:
                    best = Candidate(finder, p50)
                elif p50 > 1.5 * best.p50:
                    break
            if note == _OVER:
                break
        return best

    def _smallest(
        self, kind: Kind, structure: Structure, wanted: int, high: int | None
    ) -> tuple[Finder | None, tuple[int, NDArray[np.float64]] | None, str]:
        """Return the finder with the smallest value that reaches the recall, or None; a value with its recalls; why it is None."""
        values = kind.values(len(self.vectors), wanted)
        first = 0
        end = len(values) - 1 if high is None else max(i for i, value in enumerate(values) if value <= high)
        found: Finder | None = None
        shown: tuple[int, NDArray[np.float64]] | None = None
        note = _MISSED
        while first <= end and note != _OVER:
            # The largest is not asked before it must be: it takes longest.
            place = (first + end) // 2
            finder = Finder(structure, values[place], wanted, self.ids)
            if self._median_time(finder, _QUICKLY_TIMED) > _TOO_SLOW * self.exact_seconds:
                end, note = place - 1, _SLOW
                continue
            observed = self._recalls(finder)
            if self._reaches(observed):
                found, shown, end = finder, (finder.value, observed), place - 1
            else:
                shown, first = shown if found else (finder.value, observed), place + 1
            if perf_counter() > self.until:
                note = _OVER
        return found, shown, note if found is None or note == _OVER else ""

    def _reaches(self, observed: NDArray[np.float64]) -> bool:
        return exceeds(observed, self.recall, ERROR)

    def _recalls(self, finder: Finder) -> NDArray[np.float64]:
        """Return the recall of each tuning query, or of the first ones if these show that it is too low."""
        observed = np.zeros(0)
        for end in (*(block for block in _BLOCKS if block < len(self.asked)), len(self.asked)):
            part = self.asked[len(observed) : end]
            found = finder.find(self.base, part.queries, part.exact.shape[1], self.threads)[0]
            observed = np.append(observed, recalls(found, part.exact))
            if exceeds(1 - observed, 1 - self.recall, _CLEAR):
                break
        return observed

    def _median_time(self, finder: Finder, queries: int) -> float:
        return median_time(
            lambda query: finder.find(self.base, query, self.k, self.threads), self.asked.queries[:queries]
        )


def measured(observed: NDArray[np.float64]) -> Measured:
    """Return the mean of some recalls with its bounds."""
    bounds = lower_bound(observed, ERROR), upper_bound(observed, ERROR)
    return Measured(float(observed.mean()), *bounds, len(observed))


def median_time(search: Callable[[NDArray[np.float32]], object], queries: NDArray[np.float32]) -> float:
    """Return the median time of one query, in seconds."""
    times = []
    for row in range(len(queries)):
        begun = perf_counter()
        search(queries[row : row + 1])
        times.append(perf_counter() - begun)
    return float(np.median(times))
