"""Is one run better than another on the same queries, or could that be chance: intervals and p-values.

References
----------
M. D. Smucker, J. Allan, B. Carterette: A comparison of statistical significance tests for information retrieval
evaluation, CIKM 2007 (the randomisation test of two rankings' means).
D. Deutsch, R. Dror, D. Roth: A statistical analysis of summarization evaluation metrics using resampling methods,
TACL 9, 2021 (the same for two correlations: scores are standardised, then change places pair by pair).
B. Phipson, G. K. Smyth: Permutation p-values should never be zero, Stat. Appl. Genet. Mol. Biol. 9, 2010.
S. Holm: A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from care_accel.errors import CareError
from care_accel.eval.scores import QueryScores
from care_accel.eval.statistics.resampling import (
    LEVEL,
    RESAMPLES,
    SEED,
    Correlations,
    Floats,
    Means,
    interval,
    parts,
)


@dataclass(frozen=True)
class Difference:
    """How the scores of two runs on one task differ.

    Attributes
    ----------
    task, metric : str
    n : int
        Queries, or pairs.
    a, b : float
        Scores of the two runs.
    difference : float
        ``b - a``.
    interval : tuple of float
        Bootstrap interval of the difference; it covers 1 - level.
    p_value : float
        Of the two-sided randomisation test.
    adjusted : float
        The p-value, corrected where several tasks are tested together.
    significant : bool
        Whether ``adjusted`` is at most the level.
    """

    task: str
    metric: str
    n: int
    a: float
    b: float
    difference: float
    interval: tuple[float, float]
    p_value: float
    adjusted: float
    significant: bool


def paired(a: QueryScores, b: QueryScores, *, level: float = LEVEL) -> Difference:
    """Return the difference of two runs on the same queries or pairs, its interval and its p-value.

    The interval is that of the percentile bootstrap over queries: 10,000 resamples, in each of which both runs
    have the same queries. The p-value is how often a difference at least as large, in either direction, comes
    out when the two results of each query change places by the toss of a coin: in 10,000 random ways and the
    real one, or in every way where these are fewer. For a correlation the two similarities of a pair change
    places, as ranks for Spearman, standardised for Pearson. Whatever is drawn has a fixed seed.

    Parameters
    ----------
    a, b : QueryScores
    level : float
        What p-values are held against; the interval covers 1 - level.

    Raises
    ------
    CareError
        The two are not of the same task, metric and queries, or a correlation is undefined.
    """
    values = aligned(a, b)
    runs: Means | Correlations
    if a.gold is None:
        runs = Means(a.values, values)
    else:
        if any(np.ptp(side) == 0 for side in (a.gold, a.values, values)):
            raise CareError(
                f"{a.task}: {a.metric} is undefined, as one side has the same value for all pairs"
            )
        runs = Correlations(a.gold, a.values, values, ranks=a.kind == "spearman")
    first, second = runs.scores
    p_value = _p_value(runs)
    return Difference(
        task=a.task,
        metric=a.metric,
        n=len(a),
        a=first,
        b=second,
        difference=second - first,
        interval=interval(runs.of_resamples, len(a), level),
        p_value=p_value,
        adjusted=p_value,
        significant=p_value <= level,
    )


def adjusted(differences: Sequence[Difference], level: float = LEVEL) -> list[Difference]:
    """Return the differences with p-values corrected by Holm's method, for all tasks that are tested together."""
    corrected = holm([one.p_value for one in differences])
    return [
        replace(one, adjusted=p, significant=p <= level)
        for one, p in zip(differences, corrected, strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values so corrected that calling those at most alpha significant errs at all with at most alpha.

    The smallest of m is multiplied by m, the next by m - 1, and so on; none comes out below a smaller one.
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    result = np.empty_like(values)
    result[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return [float(one) for one in result]


def aligned(a: QueryScores, b: QueryScores) -> Floats:
    """Return the values of ``b`` in the order of the queries of ``a``.

    Raises
    ------
    CareError
        They are not of the same task, metric and queries.
    """
    if (a.task, a.metric, a.kind) != (b.task, b.metric, b.kind):
        raise CareError(f"{a.task} by {a.metric} and {b.task} by {b.metric} cannot be compared")
    if a.gold is not None and b.gold is not None:
        if not np.array_equal(a.gold, b.gold):
            raise CareError(f"{a.task}: the pairs of the two runs are not the same")
        return b.values
    place = {query: position for position, query in enumerate(b.queries)}
    if len(place) != len(a) or place.keys() != set(a.queries):
        raise CareError(f"{a.task}: the queries of the two runs are not the same")
    return b.values[[place[query] for query in a.queries]]


def _p_value(runs: Means | Correlations) -> float:
    n = runs.movable
    # Summed as those it is held against are: where few queries differ, the rounding of two means is no smaller than what
    # is compared, and the real way would not count as one as large as itself.
    real = float(runs.of_swaps(np.zeros((1, n)))[0])
    if exact := 2**n <= RESAMPLES:
        ways = (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(np.float64)
        found = runs.of_swaps(ways)
    else:
        rng = np.random.default_rng(SEED)
        found = np.concatenate(
            [
                runs.of_swaps(rng.integers(0, 2, (size, n), dtype=np.int8).astype(np.float64))
                for size in parts(RESAMPLES, n)
            ]
        )
    as_large = int((np.abs(found) >= abs(real) - runs.rounding).sum())
    # The ways that were drawn do not hold the real one: it counts as one more, or p could be 0.
    return as_large / len(found) if exact else (1 + as_large) / (1 + len(found))
