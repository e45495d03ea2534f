"""Tune an approximate index to a recall: the smallest setting that reaches it, of the fastest configuration."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from bench.scan.test_scan import K

THREADS = len(os.sched_getaffinity(0))
# Values of a setting that is tuned, about 15 % apart.
STEPS = sorted({round(1.15**i) for i in range(60)})


@dataclass
class TunableIndex:
    """A faiss index, its configuration, and the setting that raises its recall, named as in `faiss.ParameterSpace`.

    Parameters
    ----------
    index : faiss.Index
    setting : str
    max_value : int
        Largest value of the setting.
    threads : int
        OpenMP threads for one query.
    prepare : callable
        Sets all other parameters.
    description : str
        For the note of its row.
    results_key : hashable
        Indexes with the same key return the same results at the same setting; only their times differ.
    build_seconds : float
        With the training.
    """

    index: Any
    setting: str
    max_value: int
    threads: int = 1
    prepare: Callable[[], None] = lambda: None
    description: str = ""
    results_key: Any = None
    build_seconds: float = 0.0

    def use(self, value: int) -> None:
        """Set the value for the searches that follow."""
        import faiss

        self.prepare()
        faiss.omp_set_num_threads(self.threads)
        faiss.ParameterSpace().set_index_parameter(self.index, self.setting, value)

    def search_all(self, queries: Any, value: int) -> Any:
        """Return the ids for many queries at a value, with all threads: they do not affect the results."""
        import faiss

        self.use(value)
        faiss.omp_set_num_threads(THREADS)
        return self.index.search(queries, K)[1]


@dataclass
class Built:
    """The indexes built for a peer.

    Parameters
    ----------
    candidates : list of TunableIndex
    keep : object
        Objects that faiss refers to and does not own.
    recalls : dict
        Measured recall by ``results_key``, setting and the identity of the queries.
    """

    candidates: list[TunableIndex]
    keep: list[Any] = field(default_factory=list)
    recalls: dict[tuple[Any, int, int], float] = field(default_factory=dict)


def tuned(case: Any, built: Built, recall: float, queries: Any = None) -> tuple[TunableIndex, int] | None:
    """Return the fastest candidate, at its smallest setting that reaches the recall; None if none reaches it.

    Parameters
    ----------
    case : Case
    built : Built
    recall : float
    queries : numpy.ndarray, optional
        That it is reached on, of the case; those that tune by default.
    """
    queries = case.tune if queries is None else queries
    found = []
    for candidate in built.candidates:
        value = _smallest(case, built, candidate, recall, queries)
        if value is not None:
            candidate.use(value)
            found.append((_median_time(candidate.index, queries[:60]), candidate, value))
    return min(found, key=lambda one: one[0])[1:] if found else None


def _smallest(case: Any, built: Built, candidate: TunableIndex, recall: float, queries: Any) -> int | None:
    """Return the smallest setting at which a candidate reaches the recall on some queries."""

    def reaches(value: int) -> bool:
        key = candidate.results_key, value, id(queries)
        if key not in built.recalls:
            built.recalls[key] = case.recall(queries, candidate.search_all(queries, value))
        return built.recalls[key] >= recall

    values: Sequence[int] = [value for value in STEPS if value < candidate.max_value] + [candidate.max_value]
    low, high = 0, len(values)
    while low < high:  # recall grows with the setting
        middle = (low + high) // 2
        if reaches(values[middle]):
            high = middle
        else:
            low = middle + 1
    return values[low] if low < len(values) else None


def _median_time(index: Any, queries: Any) -> float:
    times = []
    for i in range(len(queries)):
        begun = perf_counter()
        index.search(queries[i : i + 1], K)
        times.append(perf_counter() - begun)
    return float(np.median(times))
