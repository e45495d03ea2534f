"""Paired significance tests of two runs: bootstrap confidence intervals and permutation p-values.

References
----------
M. D. Smucker, J. Allan, B. Carterette: A comparison of statistical significance tests for information retrieval
evaluation, CIKM 2007 (the paired permutation, or randomisation, test of two means).
D. Deutsch, R. Dror, D. Roth: A statistical analysis of summarization evaluation metrics using resampling methods,
TACL 9, 2021 (the same for two correlations: scores are standardised, then swapped pair by pair).
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
    CorrelationDifference,
    Floats,
    MeanDifference,
    batch_sizes,
    bootstrap_interval,
)


@dataclass(frozen=True)
class Difference:
    """Difference of two runs' scores on one task.

    Attributes
    ----------
    task, metric : str
    n : int
        Number of queries or pairs.
    a, b : float
        Scores of the two runs.
    difference : float
        ``b - a``.
    interval : tuple of float
        Bootstrap confidence interval of the difference; it covers 1 - level.
    p_value : float
        p-value of the two-sided paired permutation test.
    adjusted : float
        The p-value after correction for multiple tests.
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


def paired_test(a: QueryScores, b: QueryScores, *, level: float = LEVEL) -> Difference:
    """Return the difference of two runs on the same queries or pairs, its confidence interval and its p-value.

    The confidence interval is a percentile bootstrap over queries with 10,000 resamples, each with the same queries for
    both runs. The p-value is that of a two-sided paired permutation test: the fraction of permutations with a difference
    at least as large, where each query's two results are swapped with probability 1/2. It uses 10,000 random
    permutations plus the observed one, or all permutations if there are fewer. For a correlation the two similarities
    of a pair are swapped, as ranks for Spearman, standardised for Pearson. The seed is fixed.

    Parameters
    ----------
    a, b : QueryScores
    level : float
        Significance level; the confidence interval covers 1 - level.

    Raises
    ------
    CareError
        Task, metric or queries differ, or a correlation is undefined.
    """
    values = aligned(a, b)
    difference: MeanDifference | CorrelationDifference
    if a.gold is None:
        difference = MeanDifference(a.values, values)
    else:
        if any(np.ptp(variable) == 0 for variable in (a.gold, a.values, values)):
            raise CareError(
                f"{a.task}: {a.metric} is undefined, because gold scores or similarities are equal for all pairs"
            )
        difference = CorrelationDifference(a.gold, a.values, values, ranks=a.kind == "spearman")
    first, second = difference.scores
    p_value = _p_value(difference)
    return Difference(
        task=a.task,
        metric=a.metric,
        n=len(a),
        a=first,
        b=second,
        difference=second - first,
        interval=bootstrap_interval(difference.resampled, len(a), level),
        p_value=p_value,
        adjusted=p_value,
        significant=p_value <= level,
    )


def adjust_holm(differences: Sequence[Difference], level: float = LEVEL) -> list[Difference]:
    """Return the differences with p-values adjusted for multiple tests by Holm's method."""
    corrected = holm([one.p_value for one in differences])
    return [
        replace(one, adjusted=p, significant=p <= level)
        for one, p in zip(differences, corrected, strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm's method, which controls the family-wise error rate.

    The smallest of m is multiplied by m, the next by m - 1, and so on; adjusted values keep the order, and are at most 1.
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
        Task, metric or queries differ.
    """
    if (a.task, a.metric, a.kind) != (b.task, b.metric, b.kind):
        raise CareError(f"{a.task} by {a.metric} and {b.task} by {b.metric} cannot be compared")
    if a.gold is not None and b.gold is not None:
        if not np.array_equal(a.gold, b.gold):
            raise CareError(f"{a.task}: the pairs of the two runs are not the same")
        return b.values
    positions = {query: position for position, query in enumerate(b.queries)}
    if len(positions) != len(a) or positions.keys() != set(a.queries):
        raise CareError(f"{a.task}: the queries of the two runs are not the same")
    return b.values[[positions[query] for query in a.queries]]


def _p_value(difference: MeanDifference | CorrelationDifference) -> float:
    n = difference.unequal
    # Computed in the same way as the permuted differences: if few queries differ, the rounding error of two means is as
    # large as the difference, and the observed difference would not count as at least as large as itself.
    observed = float(difference.permuted(np.zeros((1, n)))[0])
    if exact := 2**n <= RESAMPLES:
        swaps = (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(np.float64)
        permuted = difference.permuted(swaps)
    else:
        rng = np.random.default_rng(SEED)
        permuted = np.concatenate(
            [
                difference.permuted(rng.integers(0, 2, (size, n), dtype=np.int8).astype(np.float64))
                for size in batch_sizes(RESAMPLES, n)
            ]
        )
    as_large = int((np.abs(permuted) >= abs(observed) - difference.tolerance).sum())
    # Random permutations do not include the observed one: count it, so that p is never 0.
    return as_large / len(permuted) if exact else (1 + as_large) / (1 + len(permuted))
