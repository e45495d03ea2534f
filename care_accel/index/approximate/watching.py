"""Whether a recall is kept in use: every m-th query that is searched approximately is answered exactly as well."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from care_accel.errors import require_count
from care_accel.index.approximate.choice import ERROR, Choice, Measured
from care_accel.index.approximate.low_priority import lower_priority
from care_accel.index.approximate.recall import exceeds, lower_bound, recalls, upper_bound

log = logging.getLogger(__name__)

EVERY = 1000
# Recalls that the running one is the mean of: of more, a change would be seen late.
_WINDOW = 1000
# Queries that wait to be answered exactly, at most; where checks are slower than queries come, some are left out.
_MOST_WAITING = 16
Exact = Callable[[NDArray[np.float32], int], NDArray[np.float64]]


class _Asked(NamedTuple):
    """A query that was answered approximately: with the scores that were found ``[1, k]``, and what answers it exactly."""

    choice: Choice
    query: NDArray[np.float32]
    found: NDArray[np.float64]
    exact: Exact


class RecallWatch:
    """Compares answers of an approximate index with exact ones, and keeps the running recall.

    The exact scan runs on one thread of low priority after the answer was given, on the vectors that were searched. Queries that the
    index answers by an exact scan anyway are not counted. Of an index that is built again the recall starts anew.

    Parameters
    ----------
    every : int
        Check every so many queries.
    warn : callable, optional
        Called once for an index, with one line, when its recall is proven to be below what was asked for: when the upper bound of
        the mean is. By default it is logged.
    checked : callable, optional
        Called after every check.
    """

    def __init__(
        self,
        every: int = EVERY,
        *,
        warn: Callable[[str], None] = log.warning,
        checked: Callable[[], None] = lambda: None,
    ) -> None:
        require_count("every", every)
        self.every = every
        self._warn = warn
        self._checked = checked
        self._lock = threading.Lock()
        self._seen = 0
        self._waiting: deque[_Asked] = deque()
        self._thread: threading.Thread | None = None
        self._choice: Choice | None = None
        self._warned = False
        self._recalls: deque[float] = deque(maxlen=_WINDOW)
        self._observed: Measured | None = None

    @property
    def recall(self) -> float:
        """Mean recall of the newest 1,000 checked queries; NaN before the first one."""
        with self._lock:
            return float(np.mean(self._recalls)) if self._recalls else float("nan")

    @property
    def observed(self) -> Measured | None:
        """The same with bounds, each wrong with a probability of 5 % at most; None before the first one."""
        with self._lock:
            if self._observed is None and self._recalls:  # kept until the next check: metrics ask each second
                observed = np.array(self._recalls)
                bounds = lower_bound(observed, ERROR), upper_bound(observed, ERROR)
                self._observed = Measured(float(observed.mean()), *bounds, len(observed))
            return self._observed

    def note(
        self, choice: Choice, queries: NDArray[np.float32], found: NDArray[np.float64], exact: Exact
    ) -> None:
        """Count queries that were answered approximately; those whose turn it is are checked later.

        Parameters
        ----------
        choice : Choice
            Of the index.
        queries : numpy.ndarray
            float32 ``[n, width]``.
        found : numpy.ndarray
            float64 ``[n, k]``, the scores of the hits.
        exact : callable
            Returns the scores of the k best, given queries and k, by one thread.
        """
        with self._lock:
            first = self.every - 1 - self._seen % self.every
            self._seen += len(queries)
            for row in range(first, len(queries), self.every):
                if len(self._waiting) >= _MOST_WAITING:
                    return
                # Copies: a batch of answers need not stay in memory.
                one = queries[row : row + 1].copy(), found[row : row + 1].copy()
                self._waiting.append(_Asked(choice, *one, exact))
                if self._thread is None:
                    self._thread = threading.Thread(target=self._check_all, name="recall", daemon=True)
                    self._thread.start()

    def wait(self) -> None:
        """Wait until all is checked that was to be checked."""
        while (thread := self._thread) is not None:
            thread.join()

    def _check_all(self) -> None:
        lower_priority()
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                asked = self._waiting.popleft()
            try:
                self._check(asked)
            except Exception as failure:  # a check that fails must not end those that follow
                log.warning("a query could not be answered exactly as well: %s", type(failure).__name__)

    def _check(self, asked: _Asked) -> None:
        exact = asked.exact(asked.query, asked.found.shape[1])
        recall = float(recalls(asked.found, exact)[0])
        with self._lock:
            if asked.choice is not self._choice:
                self._choice, self._warned = asked.choice, False
                self._recalls.clear()
            self._recalls.append(recall)
            self._observed = None
            missed = 1 - np.array(self._recalls)
        self._checked()
        if not self._warned and exceeds(missed, 1 - asked.choice.asked, ERROR):
            self._warned = True
            seen = self.observed
            assert seen is not None
            self._warn(
                f"recall {seen.recall:.4f} of the last {seen.queries:,} checked queries, at most {seen.high:.4f}, but "
                f"{asked.choice.asked:.9g} was asked for: build the index again, with queries such as are asked now"
            )
