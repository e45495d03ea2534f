"""SVG plots: colours are CSS variables, and each plot is drawn for wide and for narrow pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from care_accel.report.drawing.axes import FONT, Box, Scale, elide, overlap, spread_out, text_width, tick_text

WIDE, NARROW = 720, 328
# Styles are numbered; the style sheet has a colour for each.
STYLES = 8
_MARKS = (
    "M{l} {y}a{r} {r} 0 1 0 {d} 0a{r} {r} 0 1 0 -{d} 0z",  # circle
    "M{l} {t}h{d}v{d}h-{d}z",  # square
    "M{x} {t2}L{r2} {y}L{x} {b2}L{l2} {y}z",  # diamond
    "M{x} {t2}L{r2} {b}H{l2}z",  # triangle
    "M{x} {b2}L{r2} {t}H{l2}z",  # triangle upside down
    "M{l} {t}L{rr} {b}M{l} {b}L{rr} {t}",  # cross
    "M{l2} {y}H{r2}M{x} {t2}V{b2}",  # plus
    "M{l2} {t2}V{b2}M{r2} {t2}V{b2}M{l2} {y}H{r2}",  # the letter H
)


@dataclass(frozen=True)
class Point:
    """Point of a scatter plot; labelled by its number if the label does not fit."""

    number: int
    label: str
    x: float
    y: float
    style: int = 1
    front: bool = False
    faded: bool = False


@dataclass(frozen=True)
class Line:
    """Line through measured points, with an optional dashed fit."""

    label: str
    points: Sequence[tuple[float, float]]
    style: int = 1
    fitted: Sequence[tuple[float, float]] = ()
    faded: Sequence[bool] = ()


@dataclass(frozen=True)
class Interval:
    """Value with a confidence interval, one of several under a heading."""

    label: str
    value: float
    low: float
    high: float
    style: int
    faded: bool = False


def mark(
    style: int, x: float = 0, y: float = 0, title: str = "", *, faded: bool = False, r: float = 4.5
) -> Markup:
    """Return the marker of a style, with a tooltip."""
    numbers = {"x": x, "y": y, "l": x - r, "rr": x + r, "t": y - r, "b": y + r, "r": r, "d": 2 * r}
    numbers |= {"l2": x - 1.2 * r, "r2": x + 1.2 * r, "t2": y - 1.2 * r, "b2": y + 1.2 * r}
    path = _MARKS[style % STYLES].format(**{name: f"{number:.1f}" for name, number in numbers.items()})
    kind = f"s{style % STYLES} mark{' faded' if faded else ''}"
    return Markup('<path class="{}" d="{}"><title>{}</title></path>').format(kind, path, title)


def swatches(labels: Sequence[tuple[str, int]]) -> Markup:
    """Return a legend of bar colours."""
    entry = '<li><svg viewBox="0 0 14 14" aria-hidden="true"><rect class="s{} bar" y="3" width="14" height="8"/></svg>{}</li>'
    entries = [Markup(entry).format(style % STYLES, label) for label, style in labels]
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(entries))


def legend(labels: Sequence[tuple[str, int]], kind: str = "") -> Markup:
    """Return a legend of markers."""
    entries = [
        Markup('<li><svg viewBox="-7 -7 14 14" aria-hidden="true">{}</svg>{}</li>').format(mark(style), label)
        for label, style in labels
    ]
    return Markup('<ul class="legend {}">{}</ul>').format(kind, Markup("").join(entries))


def bar(
    start: float,
    end: float,
    *,
    style: int = 1,
    faded: bool = False,
    rule: float | None = None,
    label: str = "",
) -> Markup:
    """Return a bar for a table cell, in shares of its width; ``rule`` is a reference line."""
    return stack([(start, end, style)], faded=faded, rule=rule, label=label)


def stack(
    pieces: Sequence[tuple[float, float, int]],
    *,
    faded: bool = False,
    rule: float | None = None,
    label: str = "",
) -> Markup:
    """Return a stacked bar for a table cell: start and end of each piece in shares of its width, and style."""
    drawn = [
        Markup('<rect class="s{} bar{}" x="{:.2f}" width="{:.2f}" y="1" height="8"/>').format(
            style % STYLES, " faded" if faded else "", 100 * min(a, b), max(100 * abs(b - a), 0.6)
        )
        for a, b, style in pieces
    ]
    if rule is not None:
        drawn.append(
            Markup('<path class="rule" d="M{:.2f} 0V10" vector-effect="non-scaling-stroke"/>').format(
                min(max(100 * rule, 0.5), 99.5)
            )
        )
    return Markup(
        '<svg class="bars" viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(label, Markup("").join(drawn))


def scatter(points: Sequence[Point], *, x_title: str, y_title: str, label: str) -> Markup:
    """Return a labelled scatter plot with a logarithmic x axis and the Pareto front."""

    def draw(width: int) -> tuple[float, Markup]:
        height = 420 if width == WIDE else 360
        plot = _Plot(
            width, height, [p.x for p in points], [p.y for p in points], log=(True, False), room=0.09
        )
        front = sorted((p for p in points if p.front), key=lambda p: (p.x, p.y))
        steps = "".join(
            f"M{plot.x(p.x):.1f} {plot.y(p.y):.1f}" if i == 0 else f"H{plot.x(p.x):.1f}V{plot.y(p.y):.1f}"
            for i, p in enumerate(front)
        )
        plot.add('<path class="front" d="{}"/>', steps)
        spots = [(plot.x(p.x), plot.y(p.y)) for p in points]
        taken: list[Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in spots]
        for p, (x, y) in zip(points, spots, strict=True):
            title = f"{p.label}: {p.x:.4g} ms, {p.y:.4g}"
            plot.add("{}", mark(p.style, x, y, title, faded=p.faded, r=5.5 if p.style == 0 else 4.5))
        # Labels of ours and of the Pareto front are placed first.
        for p, (x, y) in sorted(
            zip(points, spots, strict=True), key=lambda both: (both[0].style != 0, not both[0].front)
        ):
            text = p.label
            place = _free_box(text, x, y, taken, plot.area)
            if place is None:
                text = str(p.number)
                place = _free_box(text, x, y, taken, plot.area) or _box(text, x, y, 1, 0, 9)
            taken.append(place)
            if (leader := _leader(place, x, y)) is not None:
                plot.add('<path class="leader" d="{}"/>', leader)
            plot.add(
                '<text class="label{}" x="{:.1f}" y="{:.1f}">{}</text>',
                " ours" if p.style == 0 else "",
                place[0],
                place[3] - 4,
                text,
            )
        return height, plot.finish(x_title, y_title)

    return _both(draw, label)


def lines(
    drawn: Sequence[Line],
    *,
    x_title: str,
    y_title: str,
    label: str,
    log: tuple[bool, bool],
    rule: float | None = None,
) -> Markup:
    """Return a line plot, labelled at the line ends on wide pages and by a legend on narrow ones."""

    def draw(width: int) -> tuple[float, Markup]:
        height = 360 if width == WIDE else 300
        ends = width == WIDE
        right = min(max(text_width(one.label) for one in drawn) + 22, 240) if ends else 12
        xs = [x for one in drawn for x, _ in one.points]
        ys = [y for one in drawn for _, y in (*one.points, *one.fitted)] + ([] if rule is None else [rule])
        if not log[1]:
            ys.append(0.0)
        plot = _Plot(width, height, xs, [y for y in ys if y > 0 or not log[1]], log=log, right=right)
        if rule is not None:
            left, _, end, _ = plot.area
            plot.add('<path class="one" d="M{:.1f} {:.1f}H{:.1f}"/>', left, plot.y(rule), end)
        for one in drawn:
            kind = f"s{one.style % STYLES}"
            fitted = [(x, y) for x, y in one.fitted if y > 0 or not log[1]]
            plot.add('<path class="{} fitted" d="{}"/>', kind, plot.path(fitted))
            plot.add('<path class="{} line" d="{}"/>', kind, plot.path(one.points))
            for (x, y), faded in zip(one.points, one.faded or [False] * len(one.points), strict=True):
                title = f"{one.label}: {tick_text(x)}: {y:.4g}"
                plot.add("{}", mark(one.style, plot.x(x), plot.y(y), title, faded=faded))
        if ends:
            places = spread_out(
                [plot.y(one.points[-1][1]) for one in drawn], 15, plot.area[1] + 6, plot.area[3]
            )
            for one, y in zip(drawn, places, strict=True):
                text = Markup('<text class="label{}" x="{:.1f}" y="{:.1f}">{}<title>{}</title></text>')
                ours = " ours" if one.style == 0 else ""
                plot.add(
                    "{}",
                    text.format(ours, plot.area[2] + 10, y + 4, elide(one.label, right - 14), one.label),
                )
        return height, plot.finish(x_title, y_title)

    names = legend([(one.label, one.style) for one in drawn], "when-narrow")
    return names + _both(draw, label)


def intervals(
    headings: Sequence[tuple[str, Sequence[Interval]]],
    *,
    x_title: str,
    label: str,
    rule: float | None = None,
) -> Markup:
    """Return an interval plot, grouped by heading; needs a legend of the styles."""

    def draw(width: int) -> tuple[float, Markup]:
        side_by_side = width == WIDE
        longest = max(text_width(heading) for heading, _ in headings)
        left = min(longest + 14, 230) if side_by_side else 8
        values = [v for _, rows in headings for one in rows for v in (one.low, one.high)]
        x = Scale([*values, *([] if rule is None else [rule])], left, width - 14)
        parts: list[Markup] = []
        top = 8.0
        for heading, rows in headings:
            start = top
            top += 8 if side_by_side else 21
            for one in rows:
                y = top + 5
                title = f"{heading}, {one.label}: {one.value:.2f}"
                if one.low < one.high:
                    title += f" ({one.low:.2f} to {one.high:.2f})"
                parts.append(
                    Markup('<path class="s{} whisker" d="M{:.1f} {:.1f}H{:.1f}"/>{}').format(
                        one.style % STYLES,
                        x(one.low),
                        y,
                        x(one.high),
                        mark(one.style, x(one.value), y, title, faded=one.faded, r=4),
                    )
                )
                top += 11
            top += 6
            y = (start + top) / 2 + 3 if side_by_side else start + 15
            text = Markup('<text class="heading" x="{:.1f}" y="{:.1f}" {}>{}</text>')
            anchor = Markup('text-anchor="end"') if side_by_side else ""
            parts.append(
                text.format(
                    left - 12 if side_by_side else 0,
                    y,
                    anchor,
                    elide(heading, left - 14 if side_by_side else width - 8),
                )
            )
            parts.append(Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(0, top, width))
        grid = [
            Markup(
                '<path class="grid" d="M{0:.1f} 4V{1:.1f}"/><text class="tick" x="{0:.1f}" y="{2:.1f}" text-anchor="middle">{3}</text>'
            ).format(x(tick), top, top + 17, tick_text(tick))
            for tick in x.ticks()
        ]
        if rule is not None:
            grid.append(Markup('<path class="one" d="M{:.1f} 4V{:.1f}"/>').format(x(rule), top))
        title = Markup('<text class="axis" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
            width - 4, top + 35, x_title
        )
        return top + 42, Markup("").join([*grid, *parts, title])

    return _both(draw, label)


class _Plot:
    """A plot with two axes."""

    def __init__(
        self,
        width: int,
        height: int,
        xs: Sequence[float],
        ys: Sequence[float],
        *,
        log: tuple[bool, bool],
        right: float = 14,
        room: float = 0.05,
    ) -> None:
        top, bottom = 30.0, height - 44.0
        self.y = Scale(ys, bottom, top, log=log[1], room=room)
        self._y_ticks = self.y.ticks(upright=True)
        left = max((text_width(tick_text(tick)) for tick in self._y_ticks), default=0) + 12
        self.x = Scale(xs, left, width - right, log=log[0], room=room)
        self.area: Box = (left, top, width - right, bottom)
        self._width = width
        self._parts: list[Markup] = []

    def add(self, text: str, *values: object) -> None:
        """Add markup; values are escaped."""
        self._parts.append(Markup(text).format(*values))

    def path(self, points: Sequence[tuple[float, float]]) -> str:
        """Return the SVG path through points."""
        return "".join(
            f"{'L' if i else 'M'}{self.x(x):.1f} {self.y(y):.1f}" for i, (x, y) in enumerate(points)
        )

    def finish(self, x_title: str, y_title: str) -> Markup:
        """Return the markup, axes in the background."""
        left, top, right, bottom = self.area
        behind: list[Markup] = []
        for tick in self._y_ticks:
            y = self.y(tick)
            if top - 4 <= y <= bottom + 1:
                text = '<path class="grid" d="M{:.1f} {:.1f}H{:.1f}"/><text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="end">{}</text>'
                behind.append(Markup(text).format(left, y, right, left - 6, y + 4, tick_text(tick)))
        for tick in self.x.ticks():
            x = self.x(tick)
            text = '<path class="grid" d="M{0:.1f} {1:.1f}V{2:.1f}"/><text class="tick" x="{0:.1f}" y="{3:.1f}" text-anchor="middle">{4}</text>'
            behind.append(Markup(text).format(x, top, bottom, bottom + 17, tick_text(tick)))
        behind.append(Markup('<path class="frame" d="M{:.1f} {:.1f}H{:.1f}"/>').format(left, bottom, right))
        behind.append(Markup('<text class="axis" x="0" y="14">{}</text>').format(y_title))
        title = '<text class="axis" x="{:.1f}" y="{:.1f}" text-anchor="end">{}</text>'
        behind.append(Markup(title).format(max(right, 120), bottom + 36, x_title))
        return Markup("").join([*behind, *self._parts])


def _free_box(text: str, x: float, y: float, taken: Sequence[Box], area: Box) -> Box | None:
    """Return the nearest free box for a label at a marker, if there is one."""
    for far in (9.0, 15.0, 22.0):
        for dx, dy in ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (1, 1), (-1, -1), (-1, 1)):
            box = _box(text, x, y, dx, dy, far)
            inside = (
                box[0] >= area[0] + 2
                and box[2] <= area[2] + 6
                and box[1] >= area[1] - 8
                and box[3] <= area[3]
            )
            if inside and not any(overlap(box, other) for other in taken):
                return box
    return None


def _leader(box: Box, x: float, y: float) -> str | None:
    """Return a leader line from a marker to a distant label."""
    nearest = (min(max(x, box[0]), box[2]), min(max(y, box[1] + 2), box[3] - 2))
    far = ((nearest[0] - x) ** 2 + (nearest[1] - y) ** 2) ** 0.5
    return None if far < 15 else f"M{x:.1f} {y:.1f}L{nearest[0]:.1f} {nearest[1]:.1f}"


def _box(text: str, x: float, y: float, dx: int, dy: int, far: float) -> Box:
    wide, high = text_width(text), FONT + 3
    left = x + dx * far - (wide if dx < 0 else wide / 2 if dx == 0 else 0)
    top = y + dy * (far + 1) - high / 2 - (dy * high / 2 if dx == 0 else 0)
    return (left, top, left + wide, top + high)


def _both(draw: Callable[[int], tuple[float, Markup]], label: str) -> Markup:
    """Return a wide and a narrow version of a plot; the style sheet shows one of them."""
    svg = Markup('<svg class="plot {}" viewBox="0 0 {} {:.0f}" role="img" aria-label="{}">{}</svg>')
    drawn = [(name, width, *draw(width)) for name, width in (("wide", WIDE), ("narrow", NARROW))]
    return Markup("").join(
        svg.format(name, width, height, label, body) for name, width, height, body in drawn
    )
