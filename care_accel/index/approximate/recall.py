"""The recall of hits, and what a sample of queries proves about the recall of all.

The recalls of several queries are independent, the hits of one query are not: if one is missed, its neighbours often are too. So a
query counts as one observation in [0, 1], of which nothing else is assumed: bounds of a share (Wilson, Clopper-Pearson) would count
correlated hits as independent, and a bootstrap of a thousand recalls of 1 would call a recall of 1 certain.

The bound is that of betting (Waudby-Smith and Ramdas, Journal of the Royal Statistical Society B, 2024). If the mean recall were m or
less, a gambler who bets on each query that its recall exceeds m could not expect to gain: wealth, the product of 1 + b (recall - m),
has an expectation of 1 or less, and reaches 1 / error with a probability of ``error`` at most (Ville, Markov). The lower bound is the
largest m that wealth rules out so. It holds for every distribution and any number of queries.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Bets as shares of the largest, at which one recall of 0 would lose everything. Wealth is the mean of all.
_BETS = (0.1, 0.3, 0.5, 0.7, 0.85, 0.95, 0.99)
_STEPS = 40
# Of those, one is chosen.
_SHARES = np.linspace(0.05, 0.99, 48)


def recalls(found: NDArray[np.float64], exact: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the recall of each query, ``[n]``: the share of the k best scores that was found.

    Vectors may be there twice, and are then equally good: hits are compared by their exact scores, each as often as it occurs.

    Parameters
    ----------
    found, exact : numpy.ndarray
        float64 ``[n, k]``, descending: exact scores of distinct vectors, ``-inf`` for none, and those of the k best.
    """
    least = exact[:, -1:]
    above = (exact > least).sum(axis=1)
    equal = np.minimum((found == least).sum(axis=1), exact.shape[1] - above)
    return ((found > least).sum(axis=1) + equal) / exact.shape[1]


def lower_bound(observed: NDArray[np.float64], error: float, bets: Sequence[float] = _BETS) -> float:
    """Return a lower bound of the mean of all of which these are a random sample.

    Parameters
    ----------
    observed : numpy.ndarray
        float64 ``[n]``, values of 0 to 1.
    error : float
        Probability that the bound is above the mean: at most this.
    bets : sequence of float
        Shares of the largest bet, chosen without these values.
    """
    low, high = 0.0, float(observed.mean()) if len(observed) else 0.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if _log_wealth(observed, middle, bets) >= -math.log(error):
            low = middle
        else:
            high = middle
    return low


def upper_bound(observed: NDArray[np.float64], error: float) -> float:
    """Return an upper bound of the mean; see `lower_bound`."""
    return 1.0 - lower_bound(1.0 - observed, error)


def exceeds(observed: NDArray[np.float64], mean: float, error: float, bets: Sequence[float] = _BETS) -> bool:
    """Return whether these values prove, but for a probability of ``error``, that the mean is at least ``mean``."""
    return bool(len(observed)) and _log_wealth(observed, mean, bets) >= -math.log(error)


def best_bet(observed: NDArray[np.float64], mean: float, k: int) -> float:
    """Return the bet that gains most against a mean, for use on other values.

    As if there had been one more query, of whose k hits a third was missed, or as many as the worst of these missed.
    """
    pessimist = np.append(observed, min(_pessimistic(k), float(observed.min())))
    return float(max(_SHARES, key=lambda share: _log_wealth(pessimist, mean, (share,))))


def promises(observed: NDArray[np.float64], mean: float, error: float, count: int, bet: float) -> bool:
    """Return whether so many other queries will probably prove a mean by a bet, as far as these tell.

    So it is if their expected wealth is enough though it falls short by one standard deviation, of theirs and of this estimate.
    """
    logs = np.log1p(bet / mean * (observed - mean))
    short = logs.std() * math.sqrt(count * (1 + count / len(observed)))
    return bool(count * logs.mean() - short >= -math.log(error))


def queries_needed(mean: float, error: float, k: int, tuning: float) -> int:
    """Return how many queries prove a mean if each has a recall of 1; fewer never do.

    Parameters
    ----------
    mean, error : float
    k : int
    tuning : float
        Which share of them only finds the bet (`best_bet`), by which the others prove it.
    """
    gains, losses = np.log1p(_SHARES * (1 / mean - 1)), np.log1p(_SHARES * (_pessimistic(k) / mean - 1))

    def prove(count: int) -> bool:
        first = int(count * tuning)
        return bool((count - first) * gains[np.argmax(first * gains + losses)] >= -math.log(error))

    enough = 1
    while not prove(enough):
        enough *= 2
    return bisect_left(range(enough), True, key=prove)


def _pessimistic(k: int) -> float:
    """Return the recall of a query of whose k hits a third is missed."""
    return 1 - math.ceil(k / 3) / k


def _log_wealth(observed: NDArray[np.float64], mean: float, bets: Sequence[float]) -> float:
    # A bet of 1 / mean would leave nothing after a recall of 0; an observation of 1 gains the more, the smaller the mean.
    if mean <= 0:
        return math.inf
    logs = np.array([np.log1p(share / mean * (observed - mean)).sum() for share in bets])
    most = logs.max()
    if math.isinf(most):  # against a mean of nearly 0
        return float(most)
    return float(most + np.log(np.exp(logs - most).mean()))
