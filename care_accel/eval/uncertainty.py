"""How far a score could be off by the choice of its queries: scores a query, and bootstrap intervals."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Of everything in an evaluation that is drawn: it gives the same numbers whenever it is run.
SEED = 0
RESAMPLES = 1000
LEVEL = 0.95
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
    """Return the percentile bootstrap interval of a mean over queries (95 %, 1,000 resamples)."""
    return _interval(lambda rows: scores[rows].mean(axis=1), len(scores))


def interval_of_correlation(
    first: NDArray[np.floating], second: NDArray[np.floating], *, ranks: bool
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a correlation over pairs: of ranks, or of values.

    A resample in which either side is constant has no correlation and is left out.
    """
    from scipy.stats import rankdata

    def correlations(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        sides = [np.asarray(side, dtype=np.float64)[rows] for side in (first, second)]
        if ranks:
            sides = [rankdata(side, axis=1) for side in sides]
        x, y = (side - side.mean(axis=1, keepdims=True) for side in sides)
        length = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
        return (x * y).sum(axis=1)[length > 0] / length[length > 0]

    return _interval(correlations, len(first))


def _interval(statistic: Any, count: int) -> tuple[float, float]:
    rng = np.random.default_rng(SEED)
    # In parts: a thousand resamples of a large set at once would take gigabytes.
    parts = [statistic(rng.integers(0, count, (size, count))) for size in [50] * (RESAMPLES // 50)]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.concatenate(parts), [tail, 1 - tail])
    return float(low), float(high)
