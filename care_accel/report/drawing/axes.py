"""Plot axes: linear and logarithmic scales, and ticks that fit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

FONT = 12.5  # in SVG user units; plots are shown at about their own size
# Approximate width of other than wide characters, in em.
_NARROW_WIDTH = 0.56


def text_width(text: str, size: float = FONT) -> float:
    """Estimate the width of a text in a sans-serif font."""
    return size * sum(1.0 if ord(character) > 0x2E7F else _NARROW_WIDTH for character in text)


def elide(text: str, room: float, size: float = FONT) -> str:
    """Truncate a text to fit, with an ellipsis."""
    if text_width(text, size) <= room:
        return text
    while text and text_width(text + "…", size) > room:
        text = text[:-1]
    return text.rstrip(" ,·") + "…"


def tick_text(value: float) -> str:
    """Return a tick's label: ``50k``, ``2M``, ``0.05``."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= unit:
            return f"{value / (1e3 if letter == 'k' else unit):.6g}{letter}"
    return f"{value:.6g}"


class Scale:
    """Maps values to coordinates, linearly or logarithmically.

    Parameters
    ----------
    values : iterable of float
        Values to show; above 0 if ``log``.
    start, end : float
        Coordinates of the lowest and the highest value, in user units; ``end`` may be smaller.
    log : bool
    room : float
        Margin at each end, as a share of the range.
    """

    def __init__(
        self, values: Iterable[float], start: float, end: float, *, log: bool = False, room: float = 0.05
    ) -> None:
        turned = [math.log10(value) if log else value for value in values]
        low, high = min(turned), max(turned)
        if high - low < 1e-9 * max(1.0, abs(high)):
            low, high = (
                (low - 0.15, high + 0.15) if log else (low - (abs(low) or 1) / 5, high + (abs(high) or 1) / 5)
            )
        self.low, self.high = low - room * (high - low), high + room * (high - low)
        self.start, self.end, self.log = start, end, log

    def __call__(self, value: float) -> float:
        """Return the coordinate of a value."""
        turned = math.log10(value) if self.log else value
        return self.start + (turned - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, *, upright: bool = False) -> list[float]:
        """Return round values whose labels do not overlap."""
        candidates = [*self._decades(), *self._steps()] if self.log else list(self._steps())
        best: list[float] = []
        for ticks in candidates:
            if len(ticks) > len(best) and self._fit(ticks, upright):
                best = ticks
        return best

    def _decades(self) -> Iterable[list[float]]:
        first, last = math.floor(self.low), math.ceil(self.high)
        for factors, step in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 3)):
            found = [factor * 10.0**power for power in range(first, last + 1, step) for factor in factors]
            yield [round(t, 12) for t in found if self.low <= math.log10(t) <= self.high]

    def _steps(self) -> Iterable[list[float]]:
        low, high = (10**self.low, 10**self.high) if self.log else (self.low, self.high)
        power = math.floor(math.log10(high - low))
        for exponent in (power, power - 1):
            for factor in (5, 2, 1):
                step = factor * 10.0**exponent
                numbers = range(math.ceil(low / step), math.floor(high / step) + 1)
                if len(numbers) <= 9:
                    yield [t for t in (round(n * step, 12) for n in numbers) if t > 0 or not self.log]

    def _fit(self, ticks: Sequence[float], upright: bool) -> bool:
        places = sorted((self(tick), text_width(tick_text(tick))) for tick in ticks)
        return all(
            b - a >= (22 if upright else (wide_a + wide_b) / 2 + 10)
            for (a, wide_a), (b, wide_b) in pairwise(places)
        )


def spread_out(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Shift label positions minimally to a minimum gap, within a range if they fit."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = list(places)
    for before, i in zip([None, *order], order, strict=False):
        moved[i] = max(moved[i], low if before is None else moved[before] + gap)
    for after, i in zip([None, *reversed(order)], reversed(order), strict=False):
        moved[i] = min(moved[i], high if after is None else moved[after] - gap)
    return moved


Box = tuple[float, float, float, float]


def overlap(a: Box, b: Box) -> float:
    """Return the overlapping area of two boxes (left, top, right, bottom)."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)
