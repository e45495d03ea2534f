"""Per-query scores, and bootstrap confidence intervals of a task's score."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from care_accel.eval.statistics.resampling import bootstrap_interval, correlation, mean

_TREC_NAMES = {"ndcg": "ndcg_cut", "map": "map_cut", "recall": "recall", "precision": "P"}


def query_scores(
    metric: str, relevant: dict[str, dict[str, int]], ranking: dict[str, dict[str, float]]
) -> dict[str, float]:
    """Return the per-query scores of a ranking, which mteb averages.

    Parameters
    ----------
    metric : str
        mteb's name, such as ``ndcg_at_10``.
    relevant : dict
        Relevance grades by query and document.
    ranking : dict
        Scores by query and document.

    Raises
    ------
    ValueError
        pytrec_eval does not compute the metric per query.
    """
    import pytrec_eval

    match = re.fullmatch(r"(ndcg|map|recall|precision)_at_(\d+)", metric)
    if not match:
        raise ValueError(f"{metric} is not a per-query metric")
    kind, cut = match.groups()
    scores = pytrec_eval.RelevanceEvaluator(relevant, {f"{_TREC_NAMES[kind]}.{cut}"}).evaluate(ranking)
    return {query: one[f"{_TREC_NAMES[kind]}_{cut}"] for query, one in scores.items()}


def mean_interval(scores: NDArray[np.floating]) -> tuple[float, float]:
    """Return the bootstrap confidence interval of a mean over queries; see `resampling.bootstrap_interval`."""
    return bootstrap_interval(mean(np.asarray(scores, dtype=np.float64)), len(scores))


def correlation_interval(
    first: NDArray[np.floating], second: NDArray[np.floating], *, ranks: bool
) -> tuple[float, float]:
    """Return the bootstrap confidence interval of a correlation over pairs; see `resampling.bootstrap_interval`."""
    variables = (np.asarray(values, dtype=np.float64) for values in (first, second))
    return bootstrap_interval(correlation(*variables, ranks=ranks), len(first))
