"""One measurement: rotating inputs, rounds until a time budget is spent, and the machine's limits measured around it.

Engines are measured in alternating blocks (A B C A B C A B C), so that a ratio compares neighbours in time. The spread of
the ratios over the blocks decides whether the ratio is noisy.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from bench.harness.limits import Limits
from bench.harness.machine import last_level_cache

# By --bench-size: blocks, seconds per block and engine, and the maximum number of rounds per block and engine.
BLOCKS = {"smoke": 1, "default": 3, "full": 5}
SECONDS = {"smoke": 0.0, "default": 0.4, "full": 0.8}
MAX_ROUNDS = {"smoke": 2, "default": 1000, "full": 2000}


class Measure:
    """The fixture ``measure``: times one engine in one block, and records the fields of its row.

    Parameters
    ----------
    benchmark : pytest_benchmark.fixture.BenchmarkFixture
    limits : Limits
        Shared by the whole run.
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
        fewest: int = 3,
        **extra: Any,
    ) -> Any:
        """Time a function over rotating inputs.

        Parameters
        ----------
        function : callable
        inputs : iterable of tuple
            Arguments, used cyclically; large ones should exceed the cache together. An iterator is consumed and must be
            infinite.
        group : str
            Rows of a group are compared with each other; one of them is ours.
        name : str
            Name of the row within its group.
        ours : bool
            Ratios are relative to this row.
        parameters : dict
            Parameters of the case.
        limit : dict of str to float, optional
            Work of one call by rate of `limits.PROBES`: bytes, products or operations. The one that takes longest is the
            limit.
        touched : float, optional
            Bytes that a call reads; rows that fit into the last-level cache are labelled.
        calls : int
            Calls made by `function`; times are per call.
        seconds : float, optional
            Time budget of a block, instead of the default of the size.
        fewest : int
            Rounds of a block whatever its time, for a call that takes seconds.
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
            # These rounds also warm up.
            while len(times) < (2 if self.size == "smoke" else 3) and sum(times) <= max(budget, 0.1):
                arguments = next(turns)
                started = perf_counter()
                function(*arguments)
                times.append(perf_counter() - started)
            rounds = int(
                min(MAX_ROUNDS[self.size], max(fewest if self.size != "smoke" else 2, budget / min(times)))
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
        """Time one run of many concurrent requests: its ratio is of throughput, its percentiles are of the requests.

        Parameters
        ----------
        function : callable
            Sends them and returns the latency of each in seconds.
        compared : callable, optional
            Called after the run; returns the seconds that the ratio uses instead of the duration of the run.
        group, name, ours, parameters, **extra
            As in `__call__`.
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


class EngineCache:
    """Caches the engines of the current case: each is built once for all blocks, and released when the case changes."""

    def __init__(self) -> None:
        self._case: Any = None
        self._engines: dict[Any, Any] = {}

    def __call__(self, case: Any, engine: Any, make: Callable[[], Any]) -> Any:
        """Return an engine of a case; build it on first use.

        Parameters
        ----------
        case : hashable
            A new case releases the engines of the previous one.
        engine : hashable
        make : callable
        """
        if case != self._case:
            self._engines.clear()
            self._case = case
        if engine not in self._engines:
            self._engines[engine] = make()
        return self._engines[engine]
