"""How far a score could be off by the choice of its queries: scores a query, and bootstrap intervals."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from care_accel.eval.statistics.resampling import correlation, interval, mean

_TREC_NAMES = {"ndcg": "ndcg_cut", "map": "map_cut", "recall": "recall", "precision": "P"}


def query_scores(
    metric: str, relevant: dict[str, dict[str, int]], ranking: dict[str, dict[str, float]]
) -> dict[str, float]:
    """Return a ranking's score for every query, as mteb averages them.

    Parameters
    ----------
    metric : str
        mteb's name, such as ``ndcg_at_10``.
    relevant : dict
        Grades by query and document.
    ranking : dict
        Scores by query and document.

    Raises
    ------
    ValueError
        The metric is none that pytrec_eval has a query.
    """
    import pytrec_eval

    found = re.fullmatch(r"(ndcg|map|recall|precision)_at_(\d+)", metric)
    if not found:
        raise ValueError(f"{metric} is not measured query by query")
    kind, cut = found.groups()
    scores = pytrec_eval.RelevanceEvaluator(relevant, {f"{_TREC_NAMES[kind]}.{cut}"}).evaluate(ranking)
    return {query: one[f"{_TREC_NAMES[kind]}_{cut}"] for query, one in scores.items()}


def interval_of_mean(scores: NDArray[np.floating]) -> tuple[float, float]:
    """Return the bootstrap interval of a mean over queries: see `resampling.interval`."""
    return interval(mean(np.asarray(scores, dtype=np.float64)), len(scores))


def interval_of_correlation(
    first: NDArray[np.floating], second: NDArray[np.floating], *, ranks: bool
) -> tuple[float, float]:
    """Return the bootstrap interval of a correlation over pairs, of ranks or of values: see `resampling.interval`."""
    sides = (np.asarray(side, dtype=np.float64) for side in (first, second))
    return interval(correlation(*sides, ranks=ranks), len(first))
