"""Figures of agreement as the libraries compute them; None where one is undefined, as when all grades are the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from care_accel.curation.config import HIGHEST, LOWEST

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """A figure of agreement.

    Attributes
    ----------
    name : str
    of : str
        ``grades``, or ``labels``: at or above the cut-off or not.
    judges : tuple of str
    value : float or None
        1 is perfect, 0 is chance; None where it is undefined, as when all grades are the same.
    interval : tuple of float or None
        95 %.
    pairs : int
        That it is over.
    """

    name: str
    of: str
    judges: tuple[str, ...]
    value: float | None
    interval: tuple[float, float] | None
    pairs: int


def fleiss_point(values: NDArray[np.int64], categories: int) -> float | None:
    """Return Fleiss' kappa of a row a pair and a column a judge, categories from 0 on."""
    from statsmodels.stats.inter_rater import fleiss_kappa

    if not len(values) or len(np.unique(values)) < 2:
        return None
    table = np.stack([(values == category).sum(axis=1) for category in range(categories)], axis=1)
    return float(fleiss_kappa(table))


def alpha_point(values: NDArray[np.int64]) -> float | None:
    """Return Krippendorff's alpha for ordered grades from 0 on; -1 is no grade."""
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
    """Return Cohen's kappa of a table of counts; ``weighted`` by the square of the distance of two grades."""
    from statsmodels.stats.inter_rater import cohens_kappa

    if not table.sum() or (np.count_nonzero(table.sum(axis=0) + table.sum(axis=1)) < 2):
        return None
    options: dict[str, Any] = {"wt": "quadratic"} if weighted else {}
    return float(cohens_kappa(table, return_results=False, **options))


def cohen(one: Sequence[bool], other: Sequence[bool]) -> float | None:
    """Return Cohen's kappa of two lists of labels; None where it is undefined."""
    table = np.zeros((2, 2))
    np.add.at(table, (np.asarray(one, dtype=int), np.asarray(other, dtype=int)), 1)
    return cohen_point(table, False)
