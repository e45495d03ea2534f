"""The bootstrap of every interval, and statistics in very many resamples at once, as products of matrices.

A resample is given by how often each query is in it, a swap by which queries' two results change places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# Of everything in an evaluation that is drawn: it gives the same numbers whenever it is run.
SEED = 0
RESAMPLES = 10_000
# Of significance; an interval covers 1 - LEVEL.
LEVEL = 0.05
# Numbers in a part of the resamples: 16 MB of float64, where all of them at once would take gigabytes.
_PART = 2_000_000
# Below this part of the whole set's variance a side counts as constant.
_NO_VARIANCE = 1e-12


def interval(statistic: Callable[[Floats], Floats], n: int, level: float = LEVEL) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a statistic over queries or pairs: of 10,000 resamples.

    Parameters
    ----------
    statistic : callable
        From resamples, ``[m, n]`` counts of how often each query is in each, to ``[m]`` values. What is not finite, as
        a correlation with a constant side, is left out.
    n : int
        Queries or pairs.
    level : float
        The interval covers 1 - level.
    """
    rng = np.random.default_rng(SEED)
    sampled = []
    for size in parts(RESAMPLES, n):
        drawn = rng.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
        sampled.append(statistic(counts))
    values = np.concatenate(sampled)
    low, high = np.quantile(values[np.isfinite(values)], [level / 2, 1 - level / 2])
    return float(low), float(high)


def parts(count: int, width: int) -> Iterator[int]:
    """Yield sizes that sum to ``count``, of parts that take little memory."""
    size = max(1, _PART // width)
    while count > 0:
        yield min(size, count)
        count -= size


def mean(scores: Floats) -> Callable[[Floats], Floats]:
    """Return what gives the mean of scores ``[n]`` in each resample, for `interval`."""
    each = scores / len(scores)
    return lambda counts: counts @ each


def correlation(x: Floats, y: Floats, *, ranks: bool) -> Callable[[Floats], Floats]:
    """Return what gives the correlation of two sides ``[n]`` in each resample, for `interval`: of ranks, or of values."""
    if ranks:
        sides = Ranks(x), Ranks(y)
        return lambda counts: _rank_correlations(counts, *(side.within(counts) for side in sides))
    standard = _standardised(x), _standardised(y)
    return lambda counts: _correlations(counts, *standard)


class Means:
    """The difference of two means over the same queries.

    Parameters
    ----------
    a, b : numpy.ndarray
        float64 ``[n]``, a score a query.

    Attributes
    ----------
    scores : tuple of float
        Of both runs.
    movable : int
        How many queries' results differ, so that it matters whether they change places.
    rounding : float
        Differences closer than this are equal.
    """

    def __init__(self, a: Floats, b: Floats) -> None:
        self.scores = float(a.mean()), float(b.mean())
        self._gains = (b - a) / len(a)
        self._moving = self._gains[self._gains != 0]
        self.movable = len(self._moving)
        self.rounding = 1e-12 * float(np.abs(self._gains).sum())

    def of_resamples(self, counts: Floats) -> Floats:
        """Return the difference in each resample, ``[m, n]`` to ``[m]``."""
        return counts @ self._gains

    def of_swaps(self, swaps: Floats) -> Floats:
        """Return the difference after each swap, ``[m, movable]`` of 0 and 1 to ``[m]``."""
        return (1 - 2 * swaps) @ self._moving


class Correlations:
    """The difference of two runs' correlations with the same judgements.

    Parameters
    ----------
    gold : numpy.ndarray
        float64 ``[n]``, what people said of each pair; not constant, nor is one of the others.
    a, b : numpy.ndarray
        float64 ``[n]``, each run's similarities.
    ranks : bool
        Correlations of ranks (Spearman's) in place of values (Pearson's).

    Attributes
    ----------
    scores, movable, rounding
        As of `Means`.
    """

    rounding = 1e-12

    def __init__(self, gold: Floats, a: Floats, b: Floats, *, ranks: bool) -> None:
        self._ranks = [Ranks(side) for side in (gold, a, b)] if ranks else None
        whole = np.ones((1, len(gold)))
        sides = (gold, a, b) if self._ranks is None else [side.within(whole)[0] for side in self._ranks]
        # On one scale, so that similarities of two models can change places; no correlation changes by it.
        self._gold, self._a, self._b = (_standardised(side) for side in sides)
        first, second = (float(_correlations(whole, self._gold, side)[0]) for side in (self._a, self._b))
        self.scores = first, second
        apart = self._b - self._a
        moving = apart != 0
        self.movable = int(moving.sum())
        changes = apart, self._b**2 - self._a**2, self._gold * apart
        self._changes = np.stack([change[moving] for change in changes], axis=1)

    def of_resamples(self, counts: Floats) -> Floats:
        """Return the difference in each resample, ``[m, n]`` to ``[m]``; NaN where a side is constant."""
        if self._ranks is None:
            return _correlations(counts, self._gold, self._b) - _correlations(counts, self._gold, self._a)
        gold, a, b = (side.within(counts) for side in self._ranks)
        return _rank_correlations(counts, gold, b) - _rank_correlations(counts, gold, a)

    def of_swaps(self, swaps: Floats) -> Floats:
        """Return the difference after each swap, ``[m, movable]`` of 0 and 1 to ``[m]``.

        A run whose similarities are constant after a swap counts with 0.
        """
        change = swaps @ self._changes
        a, b = (self._correlation(side, sign * change) for side, sign in ((self._a, 1), (self._b, -1)))
        return b - a

    def _correlation(self, side: Floats, change: Floats) -> Floats:
        """Return a side's correlation once its sum, its squares' and its products' have changed."""
        n = len(side)
        mean, square, product = (
            (before + change[:, i]) / n
            for i, before in enumerate((side.sum(), side @ side, self._gold @ side))
        )
        return np.nan_to_num(_ratio(product, np.ones(1), square - mean**2))


class Ranks:
    """Ranks of some values in resamples of them; their order is found once for all resamples.

    Parameters
    ----------
    values : numpy.ndarray
        float64 ``[n]``.
    """

    def __init__(self, values: Floats) -> None:
        distinct, self._group = np.unique(values, return_inverse=True)
        self._order = np.argsort(self._group, kind="stable")
        self._starts = np.searchsorted(self._group[self._order], np.arange(len(distinct)))

    def within(self, counts: Floats) -> Floats:
        """Return each value's rank among all in each resample, less the middle rank, ``[m, n]`` to ``[m, n]``.

        Equal values share the mean of their ranks. What is not in a resample has a rank that means nothing.
        """
        equal = np.add.reduceat(counts[:, self._order], self._starts, axis=1)
        # Of `equal` values after `below` smaller ones the ranks are below + 1 to below + equal.
        ranks = np.cumsum(equal, axis=1) - equal / 2
        return (ranks - counts.sum(axis=1, keepdims=True) / 2)[:, self._group]


def _standardised(values: Floats) -> Floats:
    """Return values less their mean, in units of their standard deviation."""
    centred = values - values.mean()
    return centred / np.sqrt(np.mean(centred**2))


def _correlations(counts: Floats, x: Floats, y: Floats) -> Floats:
    """Return Pearson's correlation in each resample, of sides ``[n]``."""
    means = counts @ np.stack([x, y, x * x, y * y, x * y], axis=1) / counts.sum(axis=1, keepdims=True)
    mean_x, mean_y, square_x, square_y, product = means.T
    return _ratio(product - mean_x * mean_y, square_x - mean_x**2, square_y - mean_y**2)


def _rank_correlations(counts: Floats, x: Floats, y: Floats) -> Floats:
    """Return Pearson's correlation in each resample, of centred sides ``[m, n]``."""
    weighted = counts * x
    return _ratio(*(np.einsum("mn,mn->m", *two) for two in ((weighted, y), (weighted, x), (counts * y, y))))


def _ratio(product: Floats, variance_x: Floats, variance_y: Floats) -> Floats:
    """Return covariances over standard deviations; NaN where one of these is nothing but rounding."""
    defined = (variance_x > _NO_VARIANCE) & (variance_y > _NO_VARIANCE)
    scale = np.sqrt(np.where(defined, variance_x * variance_y, np.nan))
    return product / scale
