"""Point estimates of agreement by statsmodels and krippendorff; None if undefined, as for equal grades."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from care_accel.curation.config import HIGHEST, LOWEST

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Statistic:
    """An agreement statistic.

    Attributes
    ----------
    name : str
    of : str
        ``grades``, or ``labels`` (whether a grade reaches the cutoff).
    judges : tuple of str
    value : float or None
        1 is perfect, 0 is chance; None if undefined, as for equal grades.
    interval : tuple of float or None
        95 % confidence interval.
    pairs : int
        Number of pairs.
    """

    name: str
    of: str
    judges: tuple[str, ...]
    value: float | None
    interval: tuple[float, float] | None
    pairs: int


def fleiss_point(values: NDArray[np.int64], categories: int) -> float | None:
    """Return Fleiss' kappa; ``values`` has a row per pair and a column per judge, categories from 0."""
    from statsmodels.stats.inter_rater import fleiss_kappa

    if not len(values) or len(np.unique(values)) < 2:
        return None
    table = np.stack([(values == category).sum(axis=1) for category in range(categories)], axis=1)
    return float(fleiss_kappa(table))


def alpha_point(values: NDArray[np.int64]) -> float | None:
    """Return Krippendorff's alpha for ordinal grades from 0; -1 is missing."""
    import krippendorff

    if len(np.unique(values[values >= 0])) < 2:
        return None
    reliability = np.where(values < 0, np.nan, values.astype(np.float64)).T
    return float(
        krippendorff.alpha(
            reliability_data=reliability,
            level_of_measurement="ordinal",
            value_domain=list(range(HIGHEST - LOWEST + 1)),
        )
    )


def cohen_point(table: Floats, weighted: bool) -> float | None:
    """Return Cohen's kappa of a contingency table; ``weighted``: quadratically."""
    from statsmodels.stats.inter_rater import cohens_kappa

    if not table.sum() or (np.count_nonzero(table.sum(axis=0) + table.sum(axis=1)) < 2):
        return None
    options: dict[str, Any] = {"wt": "quadratic"} if weighted else {}
    return float(cohens_kappa(table, return_results=False, **options))


def cohen_kappa(one: Sequence[bool], other: Sequence[bool]) -> float | None:
    """Return Cohen's kappa of two lists of labels; None if undefined."""
    table = np.zeros((2, 2))
    np.add.at(table, (np.asarray(one, dtype=int), np.asarray(other, dtype=int)), 1)
    return cohen_point(table, False)
