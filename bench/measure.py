"""One measurement: inputs that rotate, rounds until a time is spent, the limits of that very moment.

Whatever is compared is measured in turn, block by block (A B C A B C A B C), so that a ratio is one of neighbours in
time; how far the blocks' ratios lie apart says whether one can be quoted.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter
from typing import Any

import numpy as np
from limits import Limits
from machine import last_level_cache

# By --bench-size: blocks, seconds that a block may spend on one engine, and rounds of it at most.
BLOCKS = {"smoke": 1, "default": 3, "full": 5}
SECONDS = {"smoke": 0.0, "default": 0.4, "full": 0.8}
MOST_ROUNDS = {"smoke": 2, "default": 1000, "full": 2000}


class Measure:
    """The fixture ``measure``: times one engine in one block, and notes what the results need.

    Parameters
    ----------
    benchmark : pytest_benchmark.fixture.BenchmarkFixture
    limits : Limits
        Of the whole run.
    size : {"smoke", "default", "full"}
    block : int
    suite : str
    """

    def __init__(self, benchmark: Any, limits: Limits, size: str, block: int, suite: str) -> None:
        self.benchmark = benchmark
        self.size = size
        self.block = block
        self._limits = limits
        self._suite = suite

    @property
    def disabled(self) -> bool:
        """Whether functions are only called, not timed."""
        return bool(self.benchmark.disabled)

    def __call__(
        self,
        function: Callable[..., Any],
        inputs: Iterable[tuple[Any, ...]] = ((),),
        *,
        group: str,
        name: str,
        ours: bool,
        parameters: dict[str, Any],
        limit: dict[str, float] | None = None,
        touched: float | None = None,
        calls: int = 1,
        seconds: float | None = None,
        **extra: Any,
    ) -> Any:
        """Time a function over inputs that take turns.

        Parameters
        ----------
        function : callable
        inputs : iterable of tuple
            Arguments, used over and over: more of them than a cache holds where they are large. An iterator is used up
            and must be endless.
        group : str
            Rows of one group are compared; one of them is ours.
        name : str
            What was measured.
        ours : bool
            Ratios are to this row.
        parameters : dict
            The numbers of the case.
        limit : dict of str to float, optional
            What one call needs of each rate of `limits.PROBES`: bytes, products or operations. The one that takes longest
            is the limit.
        touched : float, optional
            Bytes that a call reads; what the last cache may hold is labelled.
        calls : int
            Calls within `function`; times are of one.
        seconds : float, optional
            To spend in a block, more or less than the size says.
        **extra
            Further fields of the row: ``exact``, ``quality``, ``recall``, ``bytes``, ``note``, ``parts_us``, ...

        Returns
        -------
        object
            What the last call returned.
        """
        turns = iter(inputs if isinstance(inputs, itertools.cycle) else itertools.cycle(inputs))
        rounds = 1
        if not self.disabled:
            budget = SECONDS[self.size] if seconds is None or self.size == "smoke" else seconds
            times: list[float] = []
            # They warm up as well; what is slow is warm after one.
            while len(times) < (2 if self.size == "smoke" else 3) and sum(times) <= max(budget, 0.1):
                arguments = next(turns)
                started = perf_counter()
                function(*arguments)
                times.append(perf_counter() - started)
            rounds = int(
                min(MOST_ROUNDS[self.size], max(3 if self.size != "smoke" else 2, budget / min(times)))
            )
        before = self._sample(limit)
        self.benchmark.group = group
        found = self.benchmark.pedantic(function, setup=lambda: (next(turns), {}), rounds=rounds)
        self._note(before, name, ours, parameters, limit, touched, calls, extra)
        return found

    def once(
        self,
        function: Callable[[], Sequence[float]],
        *,
        group: str,
        name: str,
        ours: bool,
        parameters: dict[str, Any],
        compared: Callable[[], float] | None = None,
        **extra: Any,
    ) -> None:
        """Time a run of many requests at once: its ratio is of throughput, its percentiles of its requests.

        Parameters
        ----------
        function : callable
            Runs them and returns the seconds of each.
        compared : callable, optional
            Returns the seconds that ratios are of, once the run has ended; the whole run's by default.
        group, name, ours, parameters, **extra
            As above.
        """
        self.benchmark.group = group
        latencies = self.benchmark.pedantic(function, rounds=1)
        self._note({}, name, ours, parameters, None, None, 1, extra)
        if not self.disabled:
            self.benchmark.extra_info["latencies_s"] = list(map(float, latencies))
            if compared is not None:
                self.benchmark.extra_info["compared_s"] = float(compared())

    def note(self, **extra: Any) -> None:
        """Add fields to the row, known only after the measurement."""
        self.benchmark.extra_info.setdefault("extra", {}).update(extra)

    def _sample(self, limit: dict[str, float] | None) -> dict[str, float]:
        if self.disabled:
            return {}
        gpu = any(name.startswith("GPU") for name in limit or {})
        return self._limits.sample({*(limit or {}), *(() if gpu else ("read bandwidth",))})

    def _note(
        self,
        before: dict[str, float],
        name: str,
        ours: bool,
        parameters: dict[str, Any],
        limit: dict[str, float] | None,
        touched: float | None,
        calls: int,
        extra: dict[str, Any],
    ) -> None:
        self.benchmark.extra_info |= {
            "suite": self._suite,
            "block": self.block,
            "name": name,
            "ours": ours,
            "parameters": {"threads": len(os.sched_getaffinity(0)), **parameters},
            "calls": calls,
            "in_cache": touched is not None and touched <= last_level_cache(),
            "extra": extra,
        }
        if limit and not self.disabled:
            after = self._sample(limit)
            needed = {what: amount / np.mean([before[what], after[what]]) for what, amount in limit.items()}
            slowest = max(needed, key=needed.__getitem__)
            self.benchmark.extra_info["limit"] = {"name": slowest, "seconds": needed[slowest]}


class Kept:
    """Engines of the case that is measured now: built once for all its blocks, let go with it."""

    def __init__(self) -> None:
        self._case: Any = None
        self._engines: dict[Any, Any] = {}

    def __call__(self, case: Any, engine: Any, make: Callable[[], Any]) -> Any:
        """Return an engine of a case, made when it is first asked for.

        Parameters
        ----------
        case : hashable
            Another one lets the former's engines go.
        engine : hashable
        make : callable
        """
        if case != self._case:
            self._engines.clear()
            self._case = case
        if engine not in self._engines:
            self._engines[engine] = make()
        return self._engines[engine]
