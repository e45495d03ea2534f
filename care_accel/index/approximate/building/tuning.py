"""The search for settings: of each structure the smallest that reaches a recall on the tuning queries.

Recall grows with each setting, so that bisection finds the smallest one in some six searches of the tuning queries. Each asks for as many
candidates as are ever rescored; their order tells what fewer would have found. faiss's own `ParameterSpace.explore` measures batches, without
this index's rescoring, and knows no bounds of a recall; a general optimiser such as Optuna needs more trials for what is monotone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from care_accel.index.approximate import family
from care_accel.index.approximate.building.questions import Asked
from care_accel.index.approximate.choice import ERROR, ERRORS, Measured, Tried, setting_name
from care_accel.index.approximate.family import Kind, Structure
from care_accel.index.approximate.finder import Finder
from care_accel.index.approximate.lists import Lists, TooSlowError
from care_accel.index.approximate.recall import best_bet, exceeds, lower_bound, promises, recalls, upper_bound
from care_accel.index.parts import Part

# Queries are answered in blocks, and the rest is left out once it is clear that the recall is not reached, or time is over.
_BLOCK = 200
_CLEAR = 0.01
# Steps above the smallest setting, at which fewer candidates may be enough; those between only where they take less than a share of the time.
_MORE, _BETWEEN, _BETWEEN_SHARE = (0, 1, 2, 3, 5), (1, 3), 0.01
_TIMED = 100
# Searches whose times are compared take turns of so many queries, or of so many seconds; so often at least, if they are quick.
_TURN, _TURN_SECONDS, _TURNS = 50, 0.02, 4
# A setting that takes so many times as long as the exact scan is not worth its recall.
_QUICKLY_TIMED = 7
_TOO_SLOW = 2
_MISSED, _SLOW, _OVER = "does not reach the recall", "slower than the exact scan", "time is over"
# Structures that are kept for the final choice; each takes memory.
_KEPT = 3
# Of one structure, settings that take so many times as long as the fastest are kept as well, a few: fewer lists, or fewer candidates.
_CLOSE, _SETTINGS = 1.3, 3
# Fewer lists are at most such a share of those before, and are tried while their time is less than so many times the least: measured times
# differ by as much.
_FEWER, _ABOUT = 0.75, 1.1

Search = Callable[[NDArray[np.float32]], object]
_LINKS = 32
# Of the time that is left, for building lists, or a graph; the rest is to tune it, and for others.
_SHARE, _GRAPH_SHARE = 0.5, 0.8
# From so many bytes of vectors on, which no cache holds, the number of lists is found with small codes.
_MANY_BYTES = 2**28


@dataclass
class Candidate:
    """A structure with a setting that reaches the recall, how long one query takes with it, and the recalls of the tuning queries."""

    finder: Finder
    p50: float
    recalls: NDArray[np.float64]


@dataclass
class Seen:
    """What a setting found of the first tuning queries.

    Attributes
    ----------
    value, candidates : int
    recalls : numpy.ndarray
        float64 ``[n]``.
    scores, ranks : list of numpy.ndarray
        Of `Finder.ranked`, by blocks of queries.
    """

    value: int
    candidates: int
    recalls: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    scores: list[NDArray[np.float64]] = field(default_factory=list)
    ranks: list[NDArray[np.int64]] = field(default_factory=list)

    def add(self, scores: NDArray[np.float64], ranks: NDArray[np.int64]) -> None:
        """Add a block of queries."""
        self.scores.append(scores)
        self.ranks.append(ranks)

    def recalls_of(self, count: int, asked: Asked) -> NDArray[np.float64]:
        """Return the recall of each query with the first so many candidates."""
        scores, ranks = np.concatenate(self.scores), np.concatenate(self.ranks)
        return recalls(np.where(ranks < count, scores, -np.inf), asked.exact[: len(scores)])


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
    apart : int
        Number of the queries that are kept apart.
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
    apart: int
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
    _lists: dict[int, Lists] = field(default_factory=dict)

    def family(self, names: Sequence[str] | None) -> Iterator[tuple[Kind, float]]:
        """Yield the kinds to try, and which share of the time that is left each may be built in; each follows from those before.

        Lists come first, for which little time is enough. Their number is found with the first codes that reach the recall. A graph
        follows, then lists of that number with the other codes.
        """
        if names is not None:
            for number, name in enumerate(names):
                yield family.parse(name, len(self.vectors)), 1 / min(2, len(names) - number)
            return
        small, graph = ([Kind(_LINKS, 0, codes)] if self.gpu is None else [] for codes in ("SQ8", "Flat"))
        lists = family.lists_tried(len(self.vectors))
        for kind in chain(self._of_lists(lists, then=small) if lists else small, graph):
            yield kind, _GRAPH_SHARE if kind.links else _SHARE

    def _of_lists(self, lists: Sequence[int], then: Sequence[Kind]) -> Iterator[Kind]:
        """Yield lists, and others between those that find their number and those of other codes."""
        codes, place = self._codes(), max(0, len(lists) - 2)
        fitting = [one for one in codes if self._fits(Kind(0, lists[-1], one))] or list(codes[-1:])
        missed: list[str] = []
        for first in fitting:
            yield Kind(0, lists[place], first)
            if self._timed() or lists[place] not in self._lists:
                break
            missed.append(first)
        # The time for a query falls to the best number of lists, and rises beyond. More take longest to find, so fewer come first; they
        # are all that is left if there was no time for so many.
        reached = bool(self._timed())
        if reached or lists[place] not in self._lists:
            for below in reversed(range(place)):
                yield Kind(0, lists[below], first)
                if reached and self._best_lists(lists) != lists[below]:
                    break
        if reached and self._best_lists(lists) == lists[place]:
            yield from (Kind(0, number, first) for number in lists[place + 1 :])
        yield from then
        for one in codes:
            if one not in (first, *missed):
                yield from self._fewer_lists(lists, one)

    def _fewer_lists(self, lists: Sequence[int], codes: str) -> Iterator[Kind]:
        """Yield the best number of lists with other codes, and fewer while that is faster: those that are read in less time may be longer."""
        last, fastest = 0, math.inf
        for number in reversed(lists[: lists.index(self._best_lists(lists)) + 1]):
            if last and number > _FEWER * last:
                continue
            yield (kind := Kind(0, number, codes))
            name = kind.name(self.vectors.shape[1])
            time = min((time for time, other in self._timed() if other == name), default=math.inf)
            if codes not in family.QUICKLY_READ or time >= _ABOUT * fastest:
                return
            last, fastest = number, min(time, fastest)

    def _codes(self) -> Sequence[str]:
        """Return the codes to try, first those that the number of lists is found with: of many vectors small ones, which are read faster."""
        if self.gpu is not None:
            return family.GPU_CODES
        return family.CODES if self.vectors.nbytes < _MANY_BYTES else family.CODES_OF_MANY

    def _best_lists(self, lists: Sequence[int]) -> int:
        if not self._timed():  # of those that were found in time, the most
            return max(self._lists, default=lists[0])
        return int(min(self._timed())[1].partition("IVF")[2].partition(",")[0])

    def _timed(self) -> list[tuple[float, str]]:
        """Return the times and names of lists that reach the recall."""
        return [(one.p50_us, one.name) for one in self.tried if one.p50_us is not None and "IVF" in one.name]

    def _fits(self, kind: Kind) -> bool:
        return self.memory is None or kind.estimated_bytes(*self.vectors.shape) <= self.memory

    def smallest(self, names: Sequence[str] | None) -> int:
        """Return about what the smallest structure takes, in bytes."""
        return min(kind.estimated_bytes(*self.vectors.shape) for kind, _ in self.family(names))

    def consider(self, kind: Kind, share: float) -> None:
        """Build a structure within a share of the time that is left, tune it, and keep it if it is among the fastest."""
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
        self.kept = sorted(
            [*self.kept, *self._tuned(kind, structure, size, seconds)], key=lambda one: one.p50
        )
        fastest = list(dict.fromkeys(one.finder.structure for one in self.kept))[:_KEPT]
        self.kept = [one for one in self.kept if one.finder.structure in fastest]

    def _tuned(self, kind: Kind, structure: Structure, size: int, seconds: float) -> list[Candidate]:
        def note(one: Seen, p50: float | None, why: str = "") -> None:
            setting = f"{setting_name(structure.name)} {one.value}, {one.candidates} rescored"
            recall = measured(one.recalls) if len(one.recalls) else None
            self.tried.append(Tried(structure.name, setting, recall, p50 and p50 * 1e6, size, seconds, why))

        counts = kind.candidates(self.k, len(self.vectors))
        values = kind.values(len(self.vectors), counts[0])
        seen, why = self._smallest(structure, values, counts)
        if not self._reaches(seen.recalls):
            note(seen, None, why)
            return []
        found: list[Candidate] = []
        first, fewest = values.index(seen.value), math.inf
        for step in _MORE:
            value = values[min(first + step, len(values) - 1)]
            if step and (value == seen.value or perf_counter() > self.until):
                break
            if step in _BETWEEN and found and not self._is_quick(found[0].p50):
                continue
            fewer = [count for count in counts if count < fewest]
            if not fewer:
                break
            one = self._fewest(seen if not step else self._seen(structure, value, fewer), fewer)
            if one is None:
                continue
            finder = Finder(structure, one.value, one.candidates, self.ids)
            p50, fewest = self._compared_time(finder), one.candidates
            note(one, p50)
            found.append(Candidate(finder, p50, one.recalls))
        found.sort(key=lambda one: one.p50)
        return [one for one in found[:_SETTINGS] if one.p50 <= _CLOSE * found[0].p50]

    def _is_quick(self, seconds: float) -> bool:
        """Return whether all tuning queries take little of the time that is left, if one takes so many seconds."""
        return len(self.asked) * seconds < _BETWEEN_SHARE * (self.until - perf_counter())

    def _smallest(
        self, structure: Structure, values: Sequence[int], counts: Sequence[int]
    ) -> tuple[Seen, str]:
        """Return what the smallest value found that reaches the recall with the most candidates, and "".

        If none does, the last one that was tried, and why.
        """
        first, end = 0, len(values) - 1
        found: Seen | None = None
        last, why = Seen(values[0], counts[-1]), _MISSED
        while first <= end:
            # The largest is not asked before it must be: it takes longest.
            place = (first + end) // 2
            # With the fewest candidates: what it takes at least.
            finder = Finder(structure, values[place], counts[0], self.ids)
            if self._median_time(finder, _QUICKLY_TIMED) > _TOO_SLOW * self.exact_seconds:
                end, why = place - 1, _SLOW
                continue
            last = self._seen(structure, values[place], counts)
            if self._reaches(last.recalls):
                found, end = last, place - 1
            else:
                first = place + 1
            if perf_counter() > self.until:
                why = _OVER
                break
        return found or last, why

    def _most(self, structure: Structure, value: int, counts: Sequence[int]) -> int:
        # A graph is searched for as many candidates as are asked for, if these are more than its setting.
        return counts[-1] if structure.lists else max(counts[0], min(counts[-1], value))

    def _fewest(self, seen: Seen, counts: Sequence[int]) -> Seen | None:
        """Return the same with the fewest candidates that reach the recall; None if none do."""
        for count in counts:
            if count <= seen.candidates and self._reaches(found := seen.recalls_of(count, self.asked)):
                return Seen(seen.value, count, found)
        return None

    def _reaches(self, observed: NDArray[np.float64]) -> bool:
        """Return whether the tuning queries promise that those kept apart will prove the recall."""
        if len(observed) < len(self.asked):
            return False
        bet = best_bet(observed, self.recall, self.k)
        return promises(observed, self.recall, ERRORS[0], self.apart, bet)

    def _seen(self, structure: Structure, value: int, counts: Sequence[int]) -> Seen:
        """Return what a setting finds of each tuning query, or of the first ones if these show that the recall is too low."""
        most = self._most(structure, value, counts)
        finder, seen = Finder(structure, value, most, self.ids), Seen(value, most)
        for begun in range(0, len(self.asked), _BLOCK):
            part = self.asked[begun : begun + _BLOCK]
            seen.add(*finder.ranked(self.base, part.queries, part.exact.shape[1], self.threads))
            seen.recalls = seen.recalls_of(most, self.asked)
            if exceeds(1 - seen.recalls, 1 - self.recall, _CLEAR) or perf_counter() > self.until:
                break
        return seen

    def _median_time(self, finder: Finder, queries: int) -> float:
        return median_time(self.search_of(finder), self.asked.queries[:queries])

    def _compared_time(self, finder: Finder) -> float:
        """Return the median time of one query, as if the machine were as fast as when the fastest before it was measured."""
        calls = [self.asked.queries[row : row + 1] for row in range(min(_TIMED, len(self.asked)))]
        if not self.kept:
            return alternating_times([self.search_of(finder)], calls)[0]
        fastest = self.kept[0]
        before, own = alternating_times([self.search_of(fastest.finder), self.search_of(finder)], calls)
        return fastest.p50 * own / before

    def search_of(self, finder: Finder) -> Search:
        """Return what searches by a finder."""
        return lambda rows: finder.find(self.base, rows, self.k, self.threads)


def measured(observed: NDArray[np.float64]) -> Measured:
    """Return the mean of some recalls with its bounds."""
    bounds = lower_bound(observed, ERROR), upper_bound(observed, ERROR)
    return Measured(float(observed.mean()), *bounds, len(observed))


def median_time(search: Search, queries: NDArray[np.float32]) -> float:
    """Return the median time of one query, in seconds."""
    return alternating_times([search], [queries[row : row + 1] for row in range(len(queries))])[0]


def alternating_times(searches: Sequence[Search], calls: Sequence[NDArray[np.float32]]) -> list[float]:
    """Return the median time of each search, in seconds; they take turns, so that what disturbs one disturbs all.

    In a turn one query follows another, as in use, so that caches hold of a structure what they can. Each time in another order: what
    comes after an exact scan finds them full of other vectors.
    """
    rng = np.random.default_rng(0)
    slowest = max(_times(search, calls[:1])[0] for search in searches)
    length = max(1, min(_TURN, len(calls), int(_TURN_SECONDS / max(slowest, 1e-9))))
    turns = -(-len(calls) // length)
    if length == min(_TURN, len(calls)) and len(searches) > 1:  # quick ones, more often
        turns = max(turns, _TURNS)
    times = np.empty((len(searches), turns, length))
    for turn in range(turns):
        some = [calls[place % len(calls)] for place in range(turn * length, (turn + 1) * length)]
        for row in rng.permutation(len(searches)).tolist():
            times[row, turn] = _times(searches[row], some)
    return np.median(times, axis=(1, 2)).tolist()


def _times(search: Search, calls: Sequence[NDArray[np.float32]]) -> list[float]:
    found = []
    for rows in calls:
        begun = perf_counter()
        search(rows)
        found.append(perf_counter() - begun)
    return found
