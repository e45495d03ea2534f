"""Analysis of benchmark rows: Pareto fronts, scaling fits, model pairs, break-even points."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from care_accel.report.results.benchmarks import Group, Row
from care_accel.report.results.ratios import Ratio, ratio_between

# Relative deviation from the fit above which a point is an outlier.
MAX_DEVIATION = 0.15
# Name of our own rows.
OURS = "care_accel"
# Variables fitted by a power law, as times saturate; all others by a straight line.
_POWER_LAWS = ("threads", "concurrency")


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the Pareto-optimal points: no other point has at most the cost and at least the gain, except an equal one.

    Parameters
    ----------
    points : sequence of (cost, gain)

    Returns
    -------
    list of int
        Positions by ascending cost, ties by position.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i))
    front: list[int] = []
    best = -np.inf
    for i in order:
        if points[i][1] > best or (front and points[i] == points[front[-1]]):
            front.append(i)
            best = points[i][1]
    return front


@dataclass(frozen=True)
class Fit:
    """A line or power law fitted to measured points.

    Attributes
    ----------
    intercept, slope : float
        ``y = intercept + slope x``; for a power law, ``y = exp(intercept) x**slope``.
    power : bool
    residuals : tuple of float
        (measured - fitted) / measured, for all points.
    fitted : tuple of bool
        Mask of the points used for the fit.
    """

    intercept: float
    slope: float
    power: bool
    residuals: tuple[float, ...]
    fitted: tuple[bool, ...]

    def at(self, x: float) -> float:
        """Return the fitted value."""
        if self.power:
            return float(np.exp(self.intercept) * x**self.slope)
        return self.intercept + self.slope * x

    def within(self, x: Sequence[float], i: int) -> bool:
        """Return whether a point is inside the fitted range; outside it is extrapolated."""
        fitted = [one for one, used in zip(x, self.fitted, strict=True) if used]
        return min(fitted) <= x[i] <= max(fitted)

    @property
    def outliers(self) -> list[int]:
        """Positions of the points that deviate by more than 15 %."""
        return [i for i, r in enumerate(self.residuals) if abs(r) > MAX_DEVIATION]


def fit(
    x: Sequence[float], y: Sequence[float], *, power: bool = False, excluded: Sequence[bool] = ()
) -> Fit | None:
    """Fit a straight line by relative least squares, or a power law in log-log space.

    Parameters
    ----------
    x, y : sequence of float
        Above 0.
    power : bool
    excluded : sequence of bool, optional
        Mask of points to exclude, such as those in cache, if three others remain.

    Returns
    -------
    Fit or None
        None for fewer than three distinct ``x``.
    """
    if len(set(x)) < 3:
        return None
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    used = ~np.asarray(excluded, dtype=bool) if excluded else np.ones(len(xs), dtype=bool)
    if len(set(xs[used])) < 3:
        used[:] = True
    if power:
        slope, intercept = np.polyfit(np.log(xs[used]), np.log(ys[used]), 1)
        fitted = np.exp(intercept) * xs**slope
    else:
        # x is scaled to at most 1, for conditioning.
        slope, intercept = np.polyfit(xs[used] / xs.max(), ys[used], 1, w=1 / ys[used])
        slope /= xs.max()
        fitted = intercept + slope * xs
    residuals = tuple(((ys - fitted) / ys).tolist())
    return Fit(float(intercept), float(slope), power, residuals, tuple(used.tolist()))


@dataclass(frozen=True)
class Curve:
    """Measurements of one system over a varied parameter, all others fixed."""

    over: str
    name: str
    fixed: Mapping[str, Any]
    rows: tuple[Row, ...]
    groups: tuple[Group, ...]

    @property
    def ours(self) -> bool:
        """Whether it is ours, the reference of all ratios."""
        return self.name == OURS or any(row.ours for row in self.rows)

    @property
    def x(self) -> list[float]:
        """Values of the varied parameter, ascending."""
        return [float(row.parameters[self.over]) for row in self.rows]

    @property
    def y(self) -> list[float]:
        """Median milliseconds per call over queries, else per query."""
        return [row.p50_ms if self.over == "queries" else row.ms_per_query for row in self.rows]

    @property
    def bytes_per_document(self) -> list[float | None]:
        """Index memory per vector, if known."""
        return [
            row.bytes / row.parameters["vectors"] if row.bytes and row.parameters.get("vectors") else None
            for row in self.rows
        ]

    @property
    def fit(self) -> Fit | None:
        """The fitted line or power law, without points in cache if enough others remain."""
        in_cache = [row.in_cache for row in self.rows]
        return fit(self.x, self.y, power=self.over in _POWER_LAWS, excluded=in_cache)


def curves(groups: Iterable[Group]) -> list[list[Curve]]:
    """Return the scaling curves, grouped by varied and fixed parameters.

    A row belongs to a curve if its parameters have ``over`` and a number of that name. The curve's name is the row's
    name without that number; ours if it is empty.
    """
    found: dict[tuple[str, str], dict[str, dict[float, tuple[Row, Group]]]] = {}
    for group in groups:
        for row in group.rows:
            over = row.parameters.get("over")
            x = row.parameters.get(over) if isinstance(over, str) else None
            if not isinstance(x, int | float) or x <= 0:
                continue
            name = row.name.replace(f"{over} {x:,}", "").replace(f"{over} {x}", "").strip(" ,:") or OURS
            names = found.setdefault((str(over), describe(_fixed(row))), {})
            names.setdefault(name, {})[float(x)] = (row, group)
    return [
        sorted(
            (_curve(over, name, points) for name, points in names.items()),
            key=lambda curve: (not curve.ours, -curve.y[-1]),
        )
        for (over, _), names in found.items()
    ]


def _curve(over: str, name: str, points: Mapping[float, tuple[Row, Group]]) -> Curve:
    rows, groups = zip(*(points[x] for x in sorted(points)), strict=True)
    return Curve(over, name, _fixed(rows[0]), rows, groups)


def _fixed(row: Row) -> dict[str, Any]:
    return {k: v for k, v in row.parameters.items() if k not in ("over", row.parameters["over"])}


def describe(parameters: Mapping[str, Any]) -> str:
    """Format parameters as one line."""
    return ", ".join(f"{name} {_format_value(value)}" for name, value in parameters.items())


@dataclass(frozen=True)
class BreakEven:
    """Break-even point: the index size from which an approximate search is faster than the exact one.

    ``points`` has the size and the ratio (approximate time over exact time) of each measurement; ``below`` and ``above``
    are the measured sizes around the break-even point, ``about`` is its log-log interpolation.
    """

    points: tuple[tuple[float, float], ...]
    below: float | None
    above: float | None
    about: float | None

    @property
    def alternates(self) -> bool:
        """Whether exact search is slower at some size and faster again at a larger one."""
        return self.above is None and any(ratio < 1 for _, ratio in self.points)


def break_even(points: Iterable[tuple[float, float]]) -> BreakEven:
    """Find the size from which all ratios are below 1, within the measured range."""
    ordered = tuple(sorted(points))
    lost = len(ordered)
    while lost and ordered[lost - 1][1] < 1:
        lost -= 1
    above = ordered[lost][0] if lost < len(ordered) else None
    if lost == 0 or above is None:
        return BreakEven(ordered, None, above, None)
    (n1, r1), (n2, r2) = ordered[lost - 1], ordered[lost]
    share = np.log(r1) / (np.log(r1) - np.log(r2))
    return BreakEven(ordered, n1, n2, float(np.exp(np.log(n1) + share * (np.log(n2) - np.log(n1)))))


class RecallRows(NamedTuple):
    """The approximate rows of a group that reach a recall, fastest first."""

    vectors: float
    group: Group
    rows: list[Row]


def rows_at_recall(groups: Iterable[Group], recall: float) -> dict[str, list[RecallRows]]:
    """Return the approximate rows that reach a recall, by fixed parameters, each by ascending number of vectors.

    A row tuned for a recall (``recall_wanted``) counts for that one, whatever it measured on other queries. Noisy rows
    count too, as dropping them could favour ours.
    """
    found: dict[str, dict[float, RecallRows]] = {}
    for group in groups:
        ours = group.ours
        if ours is None or not isinstance(ours.parameters.get("vectors"), int | float):
            continue
        rows = [
            row
            for row in group.rows
            if not (row.exact or row.ours) and row.ratio is not None and _nominal_recall(row) >= recall
        ]
        rows.sort(key=lambda row: row.ratio or 0)
        fixed = {k: v for k, v in ours.parameters.items() if k not in ("vectors", "over")}
        entries, vectors = found.setdefault(describe(fixed), {}), float(ours.parameters["vectors"])
        entries[vectors] = RecallRows(vectors, group, rows)
    return {key: [entries[n] for n in sorted(entries)] for key, entries in found.items()}


def _nominal_recall(row: Row) -> float:
    wanted = row.parameters.get("recall_wanted")
    if isinstance(wanted, int | float):
        return float(wanted)
    return -1.0 if row.recall is None else row.recall


@dataclass(frozen=True)
class Pair:
    """An asymmetric model and its symmetric counterpart with equal other parameters."""

    group: Group
    asymmetric: Row
    symmetric: Row

    @property
    def ratio(self) -> Ratio | None:
        """Speed-up: the symmetric model's time over the asymmetric one's."""
        return ratio_between(self.symmetric, self.asymmetric)

    @property
    def retained(self) -> float | None:
        """The asymmetric model's score as a fraction of the symmetric one's, on the same task and metric."""
        ours, theirs = self.asymmetric.quality, self.symmetric.quality
        if ours is None or theirs is None or theirs["score"] <= 0:
            return None
        same = all(ours.get(key) == theirs.get(key) for key in ("task", "metric"))
        return ours["score"] / theirs["score"] if same else None

    @property
    def differences(self) -> list[str]:
        """Other differing parameters, such as ``runtime native, not pytorch``."""
        a, s = self.asymmetric.parameters, self.symmetric.parameters
        return [
            f"{key} {a[key]}, not {s[key]}"
            for key in a
            if key in s and key not in ("family", "model", "network") and a[key] != s[key]
        ]


def pairs(groups: Iterable[Group]) -> list[Pair]:
    """Pair every asymmetric row with the symmetric row of its group with equal other parameters.

    If there is none, with the fastest that differs only in runtime or precision. If a group has one of each, they are a
    pair in any case.
    """
    found: list[Pair] = []
    for group in groups:
        sides: dict[str, list[Row]] = {"asymmetric": [], "symmetric": []}
        for row in group.rows:
            if (family := row.parameters.get("family")) in sides:
                sides[str(family)].append(row)
        for row in sides["asymmetric"]:
            if len(sides["asymmetric"]) == len(sides["symmetric"]) == 1:
                same = sides["symmetric"]
            else:
                same = [other for other in sides["symmetric"] if _others(other) == _others(row)]
            if not same:
                near = [
                    one
                    for one in sides["symmetric"]
                    if _others(one, _RUNTIME_KEYS) == _others(row, _RUNTIME_KEYS)
                ]
                same = sorted(near, key=lambda one: one.p50_ms)[:1]
            found += [Pair(group, row, other) for other in same]
    return found


# Parameters of how a model is run.
_RUNTIME_KEYS = ("runtime", "precision")


def _others(row: Row, means: Sequence[str] = ()) -> dict[str, Any]:
    """Return a row's parameters except those of its model family."""
    return {k: v for k, v in row.parameters.items() if k not in ("family", "model", "network", *means)}


def _format_value(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
