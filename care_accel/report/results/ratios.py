"""Time ratios of rows, from measurement blocks that ran side by side; used by the documents and the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from care_accel.report.results.benchmarks import Row

# Maximum relative range over blocks, (max - min) / median, of a quotable value.
NOISE = 0.15


@dataclass(frozen=True)
class Ratio:
    """Ratio of two rows' times.

    Attributes
    ----------
    value : float
        The median over blocks.
    blocks : tuple of float
        By block; empty if unknown.
    noisy : bool
        Too noisy to quote.
    """

    value: float
    blocks: tuple[float, ...]
    noisy: bool


def ratio_between(row: Row, other: Row) -> Ratio | None:
    """Return the ratio of two rows of a group; None if either lacks a ratio to ours.

    Block ratios are of measurements side by side, so they cancel the machine's load, unlike ratios of overall medians.
    Noise of our own row is ignored, as it is the reference: ratios to it may be stable.
    """
    if row.ratio is None or other.ratio is None:
        return None
    blocks: tuple[float, ...] = ()
    value = row.ratio / other.ratio
    if row.ratios and len(row.ratios) == len(other.ratios):
        blocks = tuple(one / of for one, of in zip(row.ratios, other.ratios, strict=True))
        value = float(np.median(blocks))
    noisy = any(one.noisy and not one.ours for one in (row, other)) or is_noisy(blocks)
    return Ratio(value, blocks, noisy)


def is_noisy(values: Sequence[float]) -> bool:
    """Return whether the range over blocks exceeds `NOISE`."""
    return len(values) > 0 and (max(values) - min(values)) / float(np.median(values)) > NOISE
