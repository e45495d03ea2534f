"""Two runs' difference in very many resamples at once, as products of matrices.

A resample is given by how often each query is in it, a swap by which queries' two results change places.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# Below this part of the whole set's variance a side counts as constant.
_NO_VARIANCE = 1e-12


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
