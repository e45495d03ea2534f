"""How many times as long one row takes as another, for README and page alike: a ratio of neighbours in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from care_accel.report.results.benchmarks import Row

# Blocks that lie further apart than this share of their median are too noisy to quote.
NOISE = 0.15


@dataclass(frozen=True)
class Ratio:
    """A row's time over another's.

    Attributes
    ----------
    value : float
        The median over blocks.
    blocks : tuple of float
        Of each block; empty where they are not known.
    noisy : bool
        Whether it is too noisy to quote.
    """

    value: float
    blocks: tuple[float, ...]
    noisy: bool


def ratio_between(row: Row, other: Row) -> Ratio | None:
    """Return how many times as long a row takes as another of its group; None where neither was held against ours.

    A block's ratio is that of two measurements side by side, whatever the machine was doing; the medians of two whole
    rows may be of different minutes. A row of ours may have noisy times and quiet ratios to it: it is what they are to.
    """
    if row.ratio is None or other.ratio is None:
        return None
    blocks: tuple[float, ...] = ()
    value = row.ratio / other.ratio
    if row.ratios and len(row.ratios) == len(other.ratios):
        blocks = tuple(one / of for one, of in zip(row.ratios, other.ratios, strict=True))
        value = float(np.median(blocks))
    noisy = any(one.noisy and not one.ours for one in (row, other)) or lie_apart(blocks)
    return Ratio(value, blocks, noisy)


def lie_apart(values: Sequence[float]) -> bool:
    """Say whether values of several blocks lie too far apart to quote their median."""
    return len(values) > 0 and (max(values) - min(values)) / float(np.median(values)) > NOISE
