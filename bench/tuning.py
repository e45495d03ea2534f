"""How a peer that may miss some gets its best setting: the smallest that reaches a recall, of the fastest way."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from test_scan import K

THREADS = len(os.sched_getaffinity(0))
# Values of a setting that is tuned, about 15 % apart.
STEPS = sorted({round(1.15**i) for i in range(60)})


@dataclass
class Way:
    """An index, how it searches, and the setting by which recall grows: named as `faiss.ParameterSpace` does.

    Parameters
    ----------
    index : faiss.Index
    setting : str
    most : int
        Largest value of the setting.
    threads : int
        Of OpenMP, for one query.
    prepare : callable
        Sets everything else.
    words : str
        What is said of it.
    finds : hashable
        Ways of which it is the same find the same with a setting, whatever time they take.
    """

    index: Any
    setting: str
    most: int
    threads: int = 1
    prepare: Callable[[], None] = lambda: None
    words: str = ""
    finds: Any = None

    def use(self, value: int) -> None:
        """Let searches use a value from now on."""
        import faiss

        self.prepare()
        faiss.omp_set_num_threads(self.threads)
        faiss.ParameterSpace().set_index_parameter(self.index, self.setting, value)

    def search_all(self, queries: Any, value: int) -> Any:
        """Return the ids of many queries with a value, by all threads: what is found is the same."""
        import faiss

        self.use(value)
        faiss.omp_set_num_threads(THREADS)
        return self.index.search(queries, K)[1]


@dataclass
class Built:
    """What was built for a peer.

    Parameters
    ----------
    ways : list of Way
    keep : object
        What faiss refers to and does not own.
    recalls : dict
        What was found out of its ways: recall by ``finds`` and setting.
    """

    ways: list[Way]
    keep: list[Any] = field(default_factory=list)
    recalls: dict[tuple[Any, int], float] = field(default_factory=dict)


def tuned(case: Any, built: Built, recall: float) -> tuple[Way, int] | None:
    """Return the fastest way with its smallest setting that reaches a recall, if one does."""
    found = []
    for way in built.ways:
        value = _smallest(case, built, way, recall)
        if value is not None:
            way.use(value)
            found.append((_median_time(way.index, case.tune[:60]), way, value))
    return min(found, key=lambda one: one[0])[1:] if found else None


def _smallest(case: Any, built: Built, way: Way, recall: float) -> int | None:
    """Return the smallest setting with which a way reaches a recall on the queries that tune."""

    def reaches(value: int) -> bool:
        key = way.finds, value
        if key not in built.recalls:
            built.recalls[key] = case.recall(case.tune, way.search_all(case.tune, value))
        return built.recalls[key] >= recall

    values: Sequence[int] = [value for value in STEPS if value < way.most] + [way.most]
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
