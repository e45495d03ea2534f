"""Bootstrap confidence intervals, and vectorised statistics over many resamples as matrix products.

A bootstrap resample is a vector of counts: how often each query was drawn. A permutation is a 0/1 vector: whether the
two runs' results of each query are swapped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# Seed of all random draws of an evaluation, so that it is reproducible.
SEED = 0
RESAMPLES = 10_000
# Significance level; confidence intervals cover 1 - LEVEL.
LEVEL = 0.05
# Values per batch of resamples: 16 MB of float64; all resamples at once could take gigabytes.
_BATCH_VALUES = 2_000_000
# Below this fraction of the full set's variance a variable counts as constant.
_MIN_VARIANCE = 1e-12


def bootstrap_interval(
    statistic: Callable[[Floats], Floats], n: int, level: float = LEVEL
) -> tuple[float, float]:
    """Return the percentile bootstrap confidence interval of a statistic, from 10,000 resamples.

    Parameters
    ----------
    statistic : callable
        Maps resamples, counts ``[m, n]`` of each query or pair, to values ``[m]``. Values that are not finite, such as
        correlations with a constant variable, are ignored.
    n : int
        Number of queries or pairs.
    level : float
        The interval covers 1 - level.
    """
    rng = np.random.default_rng(SEED)
    sampled = []
    for size in batch_sizes(RESAMPLES, n):
        drawn = rng.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
        sampled.append(statistic(counts))
    values = np.concatenate(sampled)
    low, high = np.quantile(values[np.isfinite(values)], [level / 2, 1 - level / 2])
    return float(low), float(high)


def batch_sizes(count: int, width: int) -> Iterator[int]:
    """Yield batch sizes that sum to ``count`` and bound the memory of a ``[size, width]`` batch."""
    size = max(1, _BATCH_VALUES // width)
    while count > 0:
        yield min(size, count)
        count -= size


def mean(scores: Floats) -> Callable[[Floats], Floats]:
    """Return the mean of scores ``[n]`` as a statistic for `bootstrap_interval`."""
    weighted = scores / len(scores)
    return lambda counts: counts @ weighted


def correlation(x: Floats, y: Floats, *, ranks: bool) -> Callable[[Floats], Floats]:
    """Return the correlation of two variables ``[n]`` as a statistic for `bootstrap_interval`.

    Spearman's correlation if ``ranks``, else Pearson's.
    """
    if ranks:
        variables = Ranks(x), Ranks(y)
        return lambda counts: _rank_correlations(counts, *(one.within(counts) for one in variables))
    standardised = _standardised(x), _standardised(y)
    return lambda counts: _correlations(counts, *standardised)


class MeanDifference:
    """Difference of two runs' mean scores over the same queries.

    Parameters
    ----------
    a, b : numpy.ndarray
        float64 ``[n]``: per-query scores.

    Attributes
    ----------
    scores : tuple of float
        Mean scores of both runs.
    unequal : int
        Number of queries whose scores differ; only swapping these changes the difference.
    tolerance : float
        Differences closer than this count as equal.
    """

    def __init__(self, a: Floats, b: Floats) -> None:
        self.scores = float(a.mean()), float(b.mean())
        self._gains = (b - a) / len(a)
        self._nonzero_gains = self._gains[self._gains != 0]
        self.unequal = len(self._nonzero_gains)
        self.tolerance = 1e-12 * float(np.abs(self._gains).sum())

    def resampled(self, counts: Floats) -> Floats:
        """Return the difference in each bootstrap resample, ``[m, n]`` to ``[m]``."""
        return counts @ self._gains

    def permuted(self, swaps: Floats) -> Floats:
        """Return the difference after each permutation, 0/1 ``[m, unequal]`` to ``[m]``."""
        return (1 - 2 * swaps) @ self._nonzero_gains


class CorrelationDifference:
    """Difference of two runs' correlations with the same gold scores.

    Parameters
    ----------
    gold : numpy.ndarray
        float64 ``[n]``: gold score of each pair. Neither it nor ``a`` or ``b`` may be constant.
    a, b : numpy.ndarray
        float64 ``[n]``: similarities of each run.
    ranks : bool
        Spearman's correlation instead of Pearson's.

    Attributes
    ----------
    scores, unequal, tolerance
        As in `MeanDifference`.
    """

    tolerance = 1e-12

    def __init__(self, gold: Floats, a: Floats, b: Floats, *, ranks: bool) -> None:
        self._ranks = [Ranks(values) for values in (gold, a, b)] if ranks else None
        full = np.ones((1, len(gold)))
        variables = (gold, a, b) if self._ranks is None else [one.within(full)[0] for one in self._ranks]
        # Standardise, so that similarities of the two models can be swapped; correlations do not change.
        self._gold, self._a, self._b = (_standardised(one) for one in variables)
        first, second = (float(_correlations(full, self._gold, one)[0]) for one in (self._a, self._b))
        self.scores = first, second
        gaps = self._b - self._a
        unequal = gaps != 0
        self.unequal = int(unequal.sum())
        changes = gaps, self._b**2 - self._a**2, self._gold * gaps
        self._changes = np.stack([change[unequal] for change in changes], axis=1)

    def resampled(self, counts: Floats) -> Floats:
        """Return the difference in each bootstrap resample, ``[m, n]`` to ``[m]``; NaN if a variable is constant."""
        if self._ranks is None:
            return _correlations(counts, self._gold, self._b) - _correlations(counts, self._gold, self._a)
        gold, a, b = (one.within(counts) for one in self._ranks)
        return _rank_correlations(counts, gold, b) - _rank_correlations(counts, gold, a)

    def permuted(self, swaps: Floats) -> Floats:
        """Return the difference after each permutation, 0/1 ``[m, unequal]`` to ``[m]``.

        The correlation of a run whose similarities are constant after a permutation counts as 0.
        """
        change = swaps @ self._changes
        a, b = (self._correlation(values, sign * change) for values, sign in ((self._a, 1), (self._b, -1)))
        return b - a

    def _correlation(self, values: Floats, change: Floats) -> Floats:
        """Return the correlation with gold after changes of the sums of x, x^2 and gold * x, ``[m, 3]`` to ``[m]``."""
        n = len(values)
        mean, square, product = (
            (before + change[:, i]) / n
            for i, before in enumerate((values.sum(), values @ values, self._gold @ values))
        )
        return np.nan_to_num(_ratio(product, np.ones(1), square - mean**2))


class Ranks:
    """Ranks of values within bootstrap resamples; the values are sorted only once.

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
        """Return the centred rank of each value in each resample, counts ``[m, n]`` to ``[m, n]``.

        Ties get their mean rank. Ranks of values that are not in the resample are meaningless.
        """
        equal = np.add.reduceat(counts[:, self._order], self._starts, axis=1)
        # `equal` tied values above `below` smaller ones have the ranks below + 1 to below + equal.
        ranks = np.cumsum(equal, axis=1) - equal / 2
        return (ranks - counts.sum(axis=1, keepdims=True) / 2)[:, self._group]


def _standardised(values: Floats) -> Floats:
    """Return the values with mean 0 and standard deviation 1."""
    centred = values - values.mean()
    return centred / np.sqrt(np.mean(centred**2))


def _correlations(counts: Floats, x: Floats, y: Floats) -> Floats:
    """Return Pearson's correlation of variables ``[n]`` in each resample."""
    means = counts @ np.stack([x, y, x * x, y * y, x * y], axis=1) / counts.sum(axis=1, keepdims=True)
    mean_x, mean_y, square_x, square_y, product = means.T
    return _ratio(product - mean_x * mean_y, square_x - mean_x**2, square_y - mean_y**2)


def _rank_correlations(counts: Floats, x: Floats, y: Floats) -> Floats:
    """Return Pearson's correlation of centred variables ``[m, n]`` in each resample."""
    weighted = counts * x
    return _ratio(*(np.einsum("mn,mn->m", *two) for two in ((weighted, y), (weighted, x), (counts * y, y))))


def _ratio(product: Floats, variance_x: Floats, variance_y: Floats) -> Floats:
    """Return covariances divided by standard deviations; NaN where a variance is only rounding error."""
    defined = (variance_x > _MIN_VARIANCE) & (variance_y > _MIN_VARIANCE)
    scale = np.sqrt(np.where(defined, variance_x * variance_y, np.nan))
    return product / scale
