"""What follows from measured rows: Pareto fronts, straight lines and where they bend, pairs, crossings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from care_accel.report.results.benchmarks import Group, Row
from care_accel.report.results.ratios import Ratio, ratio_between

# Further than this from the straight line, a curve is said to bend.
BEND = 0.15
# What our own rows are called.
OURS = "care_accel"
# Times over these fall or saturate: a power is fitted to them; over all others a straight line.
_POWERS = ("threads", "concurrency")


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return which points no other point beats: cheaper or as cheap, and better or as good, and not the same.

    Parameters
    ----------
    points : sequence of (cost, gain)

    Returns
    -------
    list of int
        Positions, by rising cost and, of one cost, by rising position.
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
    """A curve through measured points, and how far each is from it.

    Attributes
    ----------
    intercept, slope : float
        ``y = intercept + slope x``; of a power, ``y = exp(intercept) x**slope``.
    power : bool
    residuals : tuple of float
        (measured - fitted) / measured of each point, fitted or not.
    fitted : tuple of bool
        Which points the line was fitted to.
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
        """Say whether a point lies among those that were fitted; beyond them the line is extrapolated."""
        fitted = [one for one, used in zip(x, self.fitted, strict=True) if used]
        return min(fitted) <= x[i] <= max(fitted)

    @property
    def off(self) -> list[int]:
        """The points that are further than 15 % from the line; where the first is, the curve bends."""
        return [i for i, r in enumerate(self.residuals) if abs(r) > BEND]


def fit(
    x: Sequence[float], y: Sequence[float], *, power: bool = False, left_out: Sequence[bool] = ()
) -> Fit | None:
    """Fit a straight line that keeps relative distances small; of a power, a line between the logarithms.

    Parameters
    ----------
    x, y : sequence of float
        Above 0.
    power : bool
    left_out : sequence of bool, optional
        Points of another kind, such as those in a cache: the line is not fitted to them if three others remain.

    Returns
    -------
    Fit or None
        None for fewer than three different ``x``: two points are always on a line.
    """
    if len(set(x)) < 3:
        return None
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    used = ~np.asarray(left_out, dtype=bool) if left_out else np.ones(len(xs), dtype=bool)
    if len(set(xs[used])) < 3:
        used[:] = True
    if power:
        slope, intercept = np.polyfit(np.log(xs[used]), np.log(ys[used]), 1)
        fitted = np.exp(intercept) * xs**slope
    else:
        # x in units of the largest: widths and millions of vectors are fitted equally well.
        slope, intercept = np.polyfit(xs[used] / xs.max(), ys[used], 1, w=1 / ys[used])
        slope /= xs.max()
        fitted = intercept + slope * xs
    residuals = tuple(((ys - fitted) / ys).tolist())
    return Fit(float(intercept), float(slope), power, residuals, tuple(used.tolist()))


@dataclass(frozen=True)
class Curve:
    """One system over what was varied, everything else being equal."""

    over: str
    name: str
    fixed: Mapping[str, Any]
    rows: tuple[Row, ...]
    groups: tuple[Group, ...]

    @property
    def ours(self) -> bool:
        """Whether it is ours, to which others are compared: by its name, or as one of its rows is."""
        return self.name == OURS or any(row.ours for row in self.rows)

    @property
    def x(self) -> list[float]:
        """What was varied, rising."""
        return [float(row.parameters[self.over]) for row in self.rows]

    @property
    def y(self) -> list[float]:
        """Milliseconds a call at the median; a query, where the number of queries is not what was varied."""
        return [row.p50_ms if self.over == "queries" else row.ms_per_query for row in self.rows]

    @property
    def bytes_per_document(self) -> list[float | None]:
        """Memory of the index over its vectors, where both are known."""
        return [
            row.bytes / row.parameters["vectors"] if row.bytes and row.parameters.get("vectors") else None
            for row in self.rows
        ]

    @property
    def fit(self) -> Fit | None:
        """The straight line, or the power where times saturate; through the points beyond the cache, if they suffice."""
        in_cache = [row.in_cache for row in self.rows]
        return fit(self.x, self.y, power=self.over in _POWERS, left_out=in_cache)


def curves(groups: Iterable[Group]) -> list[list[Curve]]:
    """Return the curves of scaling rows; those over the same, with everything else the same, together.

    A row belongs to a curve if its parameters have ``over`` and a number of that name. What its name says beside
    that number is the name of the curve; ours if it says nothing.
    """
    found: dict[tuple[str, str], dict[str, dict[float, tuple[Row, Group]]]] = {}
    for group in groups:
        for row in group.rows:
            over = row.parameters.get("over")
            x = row.parameters.get(over) if isinstance(over, str) else None
            if not isinstance(x, int | float) or x <= 0:
                continue
            name = row.name.replace(f"{over} {x:,}", "").replace(f"{over} {x}", "").strip(" ,:") or OURS
            names = found.setdefault((str(over), described(_fixed(row))), {})
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


def described(parameters: Mapping[str, Any]) -> str:
    """Write parameters as a line."""
    return ", ".join(f"{name} {_shown(value)}" for name, value in parameters.items())


@dataclass(frozen=True)
class Crossing:
    """From which number of vectors on an approximate search is faster than the exact one.

    ``points`` has number and ratio (the approximate one's time over ours) of each measured point; ``below`` and
    ``above`` are the two measured numbers between which it happens, ``about`` where the straight line between
    their logarithms reaches 1.
    """

    points: tuple[tuple[float, float], ...]
    below: float | None
    above: float | None
    about: float | None

    @property
    def alternates(self) -> bool:
        """Whether the exact search loses somewhere, and wins again at a larger number."""
        return self.above is None and any(ratio < 1 for _, ratio in self.points)


def crossing(points: Iterable[tuple[float, float]]) -> Crossing:
    """Return from where on all ratios are below 1; nothing is said beyond the measured points."""
    ordered = tuple(sorted(points))
    lost = len(ordered)
    while lost and ordered[lost - 1][1] < 1:
        lost -= 1
    above = ordered[lost][0] if lost < len(ordered) else None
    if lost == 0 or above is None:
        return Crossing(ordered, None, above, None)
    (n1, r1), (n2, r2) = ordered[lost - 1], ordered[lost]
    share = np.log(r1) / (np.log(r1) - np.log(r2))
    return Crossing(ordered, n1, n2, float(np.exp(np.log(n1) + share * (np.log(n2) - np.log(n1)))))


class Reaching(NamedTuple):
    """The approximate rows of a group that reach a recall, the fastest first."""

    vectors: float
    group: Group
    rows: list[Row]


def reaching(groups: Iterable[Group], recall: float) -> dict[str, list[Reaching]]:
    """Return the approximate rows that reach a recall, by all but the number of vectors; entries by its rise.

    A row that was tuned to a recall (``recall_wanted``) counts for that one, whatever it reached on other queries.
    A noisy row counts as well: without it ours would look better than it may be.
    """
    found: dict[str, dict[float, Reaching]] = {}
    for group in groups:
        ours = group.ours
        if ours is None or not isinstance(ours.parameters.get("vectors"), int | float):
            continue
        rows = [
            row
            for row in group.rows
            if not (row.exact or row.ours) and row.ratio is not None and _promised(row) >= recall
        ]
        rows.sort(key=lambda row: row.ratio or 0)
        fixed = {k: v for k, v in ours.parameters.items() if k not in ("vectors", "over")}
        entries, vectors = found.setdefault(described(fixed), {}), float(ours.parameters["vectors"])
        entries[vectors] = Reaching(vectors, group, rows)
    return {key: [entries[n] for n in sorted(entries)] for key, entries in found.items()}


def _promised(row: Row) -> float:
    wanted = row.parameters.get("recall_wanted")
    if isinstance(wanted, int | float):
        return float(wanted)
    return -1.0 if row.recall is None else row.recall


@dataclass(frozen=True)
class Pair:
    """An asymmetric model and the symmetric one that differs from it in nothing else that was set."""

    group: Group
    asymmetric: Row
    symmetric: Row

    @property
    def ratio(self) -> Ratio | None:
        """How many times as long the symmetric one takes."""
        return ratio_between(self.symmetric, self.asymmetric)

    @property
    def kept(self) -> float | None:
        """The asymmetric one's score as a share of the symmetric one's, on the same task and metric."""
        ours, theirs = self.asymmetric.quality, self.symmetric.quality
        if ours is None or theirs is None or theirs["score"] <= 0:
            return None
        same = all(ours.get(key) == theirs.get(key) for key in ("task", "metric"))
        return ours["score"] / theirs["score"] if same else None

    @property
    def unlike(self) -> list[str]:
        """In what else the two differ: ``runtime native, not pytorch``."""
        a, s = self.asymmetric.parameters, self.symmetric.parameters
        return [
            f"{key} {a[key]}, not {s[key]}"
            for key in a
            if key in s and key not in ("family", "model", "network") and a[key] != s[key]
        ]


def pairs(groups: Iterable[Group]) -> list[Pair]:
    """Return every asymmetric row with the symmetric row of its group that has the same other parameters.

    Where none has, with the fastest of those that have another runtime or precision and nothing else; and where a
    group has one of each, they are a pair whatever their other parameters.
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
                near = [one for one in sides["symmetric"] if _others(one, _MEANS) == _others(row, _MEANS)]
                same = sorted(near, key=lambda one: one.p50_ms)[:1]
            found += [Pair(group, row, other) for other in same]
    return found


# What a model is run with, beside what it is.
_MEANS = ("runtime", "precision")


def _others(row: Row, means: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a row sets beside what makes it one family or the other."""
    return {k: v for k, v in row.parameters.items() if k not in ("family", "model", "network", *means)}


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
