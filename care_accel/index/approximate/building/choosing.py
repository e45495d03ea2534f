"""The final choice: the fastest setting that proves the recall on queries that were kept apart, or the exact scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from care_accel.index import parts
from care_accel.index.approximate.building.questions import Asked, answered
from care_accel.index.approximate.building.tuning import Search, Tuner, alternating_times
from care_accel.index.approximate.choice import ERROR, ERRORS, Measured, described
from care_accel.index.approximate.finder import Finder
from care_accel.index.approximate.recall import best_bet, exceeds, lower_bound, recalls, upper_bound

# Settings are tested in two sequences, so many steps above the smallest; the second one where the first setting fails.
_SEQUENCES = ((2, 1, 0), (7, 4))
_STEPS = sorted(step for sequence in _SEQUENCES for step in sequence)
_TIMED = 100
# What takes more than this share of the exact scan's time is not worth an answer that may lack a hit; measurements differ by as much.
_WORTH = 0.9
# Queries that are answered before time is looked at.
_BLOCK = 500
# Shares of the vectors in a subset, in the order in which they are proven; the first failure ends it, so that none is corrected.
_SHARES = (0.98, 0.9, 0.5, 0.25, 0.1)
_BATCHES = (4, 16, 64, 256)
_REPEATS = 3


@dataclass
class Chosen:
    """What was chosen: a finder, or None for the exact scan; see `Choice` for the others."""

    finder: Finder | None
    why: str
    exact_us: float
    chosen_us: float = 0.0
    held_out: Measured | None = None
    attempts: list[Measured] = field(default_factory=list)
    least_share: float | None = None
    least_alive: float | None = None
    subsets: list[dict[str, float]] = field(default_factory=list)
    exact_from: int | None = None


@dataclass(frozen=True, eq=False)
class _Option:
    """A setting that may be chosen, how many steps it is above the smallest, the recalls of the tuning queries at that, and its time."""

    finder: Finder
    step: int
    recalls: NDArray[np.float64]
    microseconds: float


def choose(tuner: Tuner, held: Asked, until: float) -> Chosen:
    """Return the fastest of the kept structures that proves the recall, of those that take a tenth less time than the exact scan.

    Parameters
    ----------
    tuner : Tuner
    held : Asked
        Queries kept apart.
    until : float
        When to end, by `perf_counter`; what is not proven then is not chosen.
    """
    options = [
        (finder, step, one.recalls) for one in tuner.kept for step, finder in _variants(one.finder, tuner)
    ]
    finders = [finder for finder, _, _ in options]
    queries = tuner.asked.queries

    searches = [_exact(tuner), *(tuner.search_of(finder) for finder in finders)]
    exact_time, *times = alternating_times(
        searches, [queries[i : i + 1] for i in range(min(_TIMED, len(queries)))]
    )
    times = _ascending(finders, times)
    exact_us = 1e6 * exact_time
    if not finders:
        why = f"nothing that fits into memory and budget reaches recall {tuner.recall:.9g} on the tuning queries, so every search is an exact scan"
        return Chosen(None, why, exact_us)
    order = np.argsort(times, kind="stable")
    fast = [
        _Option(finder, step, tuned, 1e6 * times[i])
        for i, (finder, step, tuned) in ((i, options[i]) for i in order.tolist())
        if times[i] < _WORTH * exact_time
    ]
    if not fast:
        why = (
            f"the exact scan takes {exact_us:.0f} us, {finders[order[0]].structure.name}, the fastest that reaches recall "
            f"{tuner.recall:.9g}, {1e6 * min(times):.0f} us: not a tenth less"
        )
        return Chosen(None, why, exact_us)
    proven, attempts, in_time = _proven(fast, tuner, held, until)
    if proven is not None:
        finder, time, result = proven
        why = (
            f"{finder.structure.name} is the fastest that proves recall {tuner.recall:.9g} on queries kept apart "
            f"({described(result)}): {time:.0f} us a query, the exact scan {exact_us:.0f} us"
        )
        return Chosen(finder, why, exact_us, time, result, attempts)
    if not in_time:
        why = (
            f"time was over before {fast[0].finder.structure.name} had proven recall {tuner.recall:.9g}, so every search is an exact "
            "scan; give a larger budget"
        )
        return Chosen(None, why, exact_us, attempts=attempts)
    why = (
        f"{len(attempts)} settings that reach recall {tuner.recall:.9g} on the tuning queries do not prove it on queries kept "
        "apart, so every search is an exact scan"
    )
    return Chosen(None, why, exact_us, attempts=attempts)


def _proven(
    fast: Sequence[_Option], tuner: Tuner, held: Asked, until: float
) -> tuple[tuple[Finder, float, Measured] | None, list[Measured], bool]:
    """Return the fastest setting that proves the recall, with its time and recall; what failed; and whether time was enough.

    Within a sequence the setting with the most to spare comes first, and the first failure ends it. So each may be tested with the whole
    error of the sequence: for a false proof, the first setting of it whose recall is too low must pass.

    Parameters
    ----------
    fast : sequence of _Option
        Ascending by time.
    tuner : Tuner
    held : Asked
    until : float
    """
    proven: tuple[Finder, float, Measured] | None = None
    attempts: list[Measured] = []
    for steps, error in zip(_SEQUENCES, ERRORS, strict=True):
        firsts = [next((one for one in fast if one.step >= step), None) for step in steps]
        for option in dict.fromkeys(one for one in firsts if one is not None):
            observed = _recalls(option.finder, tuner, held, until)
            if len(observed) < len(held):
                return proven, attempts, False
            bet = (best_bet(option.recalls, tuner.recall, tuner.k),)
            result = Measured(
                float(observed.mean()),
                lower_bound(observed, error, bet),
                upper_bound(observed, ERROR),
                len(held),
            )
            if not exceeds(observed, tuner.recall, error, bet):
                attempts.append(result)
                break
            proven = option.finder, option.microseconds, result
        if proven is not None:
            break
    return proven, attempts, True


def measure_limits(
    chosen: Chosen, tuner: Tuner, held: Asked, count: int, rng: np.random.Generator, until: float
) -> None:
    """Measure from which share of the vectors a subset is searched approximately, and from how many queries on nothing is.

    Parameters
    ----------
    chosen : Chosen
        With a finder; its limits are set.
    tuner : Tuner
    held : Asked
    count : int
        Number of vectors, removed ones included.
    rng : numpy.random.Generator
    until : float
        When to end, by `perf_counter`: smaller subsets, which are not measured then, are scanned exactly.
    """
    finder = chosen.finder
    assert finder is not None
    _measure_batches(chosen, finder, tuner, held)
    if finder.structure.selects:
        _measure_subsets(chosen, finder, tuner, held, count, rng, until)


def _measure_batches(chosen: Chosen, finder: Finder, tuner: Tuner, held: Asked) -> None:
    for size in _BATCHES:
        rows = np.ascontiguousarray(np.resize(held.queries, (size, held.queries.shape[1])))
        exact, approximate = alternating_times([_exact(tuner), tuner.search_of(finder)], [rows] * _REPEATS)
        if exact <= approximate:
            chosen.exact_from = size
            return


def _measure_subsets(
    chosen: Chosen,
    finder: Finder,
    tuner: Tuner,
    held: Asked,
    count: int,
    rng: np.random.Generator,
    until: float,
) -> None:
    """Measure subsets of fewer and fewer vectors, at random and by a plane, until one does not prove the recall."""
    rows = [held.queries[i : i + 1] for i in range(min(_TIMED, len(held)))]
    faster = {"subset": True, "removed": True}
    for share in _SHARES:
        for cut in (_random, _by_plane):
            mask = np.zeros(count, dtype=bool)
            mask[_ids(tuner)[cut(tuner.vectors, share, rng)]] = True
            made = finder.selecting(mask)
            observed = _recalls_of_subset(finder, tuner, held.queries, mask, until)
            if len(observed) < len(held):
                return

            def selected(queries: NDArray[np.float32], made: Any = made) -> object:
                return finder.find(tuner.base, queries, tuner.k, tuner.threads, made)

            def subset(queries: NDArray[np.float32], mask: NDArray[np.bool_] = mask) -> object:
                return finder.find(tuner.base, queries, tuner.k, tuner.threads, finder.selecting(mask))

            times = alternating_times([_exact(tuner, mask), selected, subset], rows)
            chosen.subsets.append(
                {
                    "share": share,
                    "recall": float(observed.mean()),
                    "low": lower_bound(observed, ERROR),
                    "us": 1e6 * times[2],
                    "exact_us": 1e6 * times[0],
                }
            )
            if not exceeds(observed, tuner.recall, ERROR):
                return
            # Of removed vectors the selection is made once, of a subset for each search.
            faster["removed"] &= times[1] < times[0]
            faster["subset"] &= times[2] < times[0]
        if faster["removed"]:
            chosen.least_alive = share
        if faster["subset"]:
            chosen.least_share = share
        if not any(faster.values()):
            return


def _recalls_of_subset(
    finder: Finder, tuner: Tuner, queries: NDArray[np.float32], mask: NDArray[np.bool_], until: float
) -> NDArray[np.float64]:
    """Return the recall of each query, of fewer if time is over."""
    made, observed = finder.selecting(mask), []
    for first in range(0, len(queries), _BLOCK):
        if perf_counter() > until:
            break
        asked = answered(tuner.base, queries[first : first + _BLOCK], tuner.k, tuner.threads, mask)
        found = finder.find(tuner.base, asked.queries, tuner.k, tuner.threads, made)[0]
        observed.append(recalls(found, asked.exact))
    return np.concatenate(observed) if observed else np.zeros(0)


def _ids(tuner: Tuner) -> NDArray[np.int64]:
    return np.arange(len(tuner.vectors)) if tuner.ids is None else tuner.ids


def _random(vectors: NDArray[np.float32], share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    return rng.permutation(len(vectors))[: max(1, round(share * len(vectors)))]


def _by_plane(vectors: NDArray[np.float32], share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the vectors on one side of a plane: a subset that goes with where vectors lie, as most filters do."""
    place = vectors @ rng.standard_normal(vectors.shape[1], dtype=np.float32)
    return np.argsort(place, kind="stable")[: max(1, round(share * len(vectors)))]


def _variants(finder: Finder, tuner: Tuner) -> Sequence[tuple[int, Finder]]:
    """Return a finder with its setting and larger ones, and how many steps larger."""
    last = finder.structure.lists or len(tuner.vectors)
    found: dict[int, int] = {}
    for step in _STEPS:
        found.setdefault(min(last, max(finder.value + step, round(finder.value * 1.15**step))), step)
    return [(step, replace(finder, value=value)) for value, step in found.items()]


def _ascending(finders: Sequence[Finder], times: Sequence[float]) -> list[float]:
    """Return times that do not fall where more of the same structure is searched; on a busy machine measured ones may."""
    found = list(times)
    for place in range(1, len(found)):
        one, before = finders[place], finders[place - 1]
        same = one.structure is before.structure and one.candidates == before.candidates
        if same and one.value > before.value:
            found[place] = max(found[place], found[place - 1])
    return found


def _recalls(finder: Finder, tuner: Tuner, asked: Asked, until: float) -> NDArray[np.float64]:
    """Return the recall of each query, or of fewer if time is over."""
    observed = []
    for first in range(0, len(asked), _BLOCK):
        part = asked[first : first + _BLOCK]
        found = finder.find(tuner.base, part.queries, part.exact.shape[1], tuner.threads)[0]
        observed.append(recalls(found, part.exact))
        if perf_counter() > until:
            break
    return np.concatenate(observed)


def _exact(tuner: Tuner, mask: NDArray[np.bool_] | None = None) -> Search:
    return lambda rows: parts.search(tuner.base, rows, tuner.k, tuner.threads, mask)
