"""Latency breakdown of a query, and scaling of time and memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from care_accel.report.drawing import charts
from care_accel.report.drawing.blocks import (
    MISSING,
    Cell,
    Figure,
    Line,
    Section,
    Table,
    number,
    share,
    signed,
    significant,
    where,
)
from care_accel.report.results.analysis import MAX_DEVIATION, OURS, Curve, curves, describe
from care_accel.report.results.benchmarks import Group, Machine

# Labels of varied parameters: singular, plural, axis title.
_AXIS_NAMES = {
    "vectors": ("vector", "vectors", "vectors in the index"),
    "width": ("value", "values per vector", "values per vector (width)"),
    "k": ("hit", "hits", "hits per query (k)"),
    "queries": ("query", "queries at a time", "queries at a time"),
    "threads": ("thread", "threads", "threads"),
    "concurrency": ("client", "clients at a time", "clients at a time"),
}
# An axis is logarithmic if max / min exceeds this.
_LOG_AXIS_SPAN = 20


def time_by_part(machine: Machine, groups: Sequence[Group]) -> Section:
    """Return the latency breakdown as stacked bars."""
    title = "Where a query's time goes"
    parted = [group for group in groups if any(row.parts_us for row in group.rows)]
    if not parted:
        note = "No benchmark has measured the parts of a query's time: pytest bench/scan/test_retriever.py bench/serving/test_server.py --benchmark-only"
        return Section(title, notes=[note])
    lead = (
        "Medians of the parts of one call, in microseconds; the small print is the 99th percentile. Each bar is scaled to "
        "the row's total time."
    )
    return Section(title, lead, [_parts(machine, group) for group in parted])


def _parts(machine: Machine, group: Group) -> Figure:
    rows = [row for row in group.rows if row.parts_us]
    names = list(dict.fromkeys(name for row in rows for name in row.parts_us))
    styles = {name: i % charts.STYLES for i, name in enumerate(names)}
    lines = []
    for row in rows:
        total = sum(p50 for p50, _ in row.parts_us.values())
        pieces, start = [], 0.0
        for name, (p50, _) in row.parts_us.items():
            pieces.append((start / total, (start + p50) / total, styles[name]))
            start += p50
        spoken = ", ".join(f"{name} {p50:.4g}" for name, (p50, _) in row.parts_us.items())
        cells = [
            Cell(row.name),
            Cell(drawn=charts.stack(pieces, label=f"microseconds: {spoken}"), kind="bar"),
            number(total),
        ]
        for name in names:
            times = row.parts_us.get(name)
            small = "" if times is None or times[1] is None else significant(times[1])
            cells.append(number(None if times is None else times[0], small=small))
        lines.append(Line(cells, " ".join(["ours"] * row.ours + ["faded"] * row.noisy)))
    columns = [("", ""), ("", "bar"), ("together, us", "n"), *((name, "n") for name in names)]
    return Figure(
        f"{group.suite}: {group.name}",
        where=where(machine, group.run),
        plot=charts.swatches([(name, styles[name]) for name in names]),
        tables=[Table(columns, lines)],
    )


def scaling(machine: Machine, groups: Sequence[Group]) -> Section:
    """Return the scaling of time and memory with each varied parameter, with fits."""
    title = "How time and memory grow"
    found = curves(groups)
    if not found:
        return Section(
            title, notes=["Nothing has been varied yet: pytest bench/scan/test_scaling.py --benchmark-only"]
        )
    lead = (
        "The dashed line is a relative least-squares fit to all points, or to those beyond the last-level cache if there are "
        "at least three; over threads and clients it is a power law. The table has the residuals. A curve bends at its "
        f"first point with a residual above {100 * MAX_DEVIATION:.0f} %."
    )
    figures = [figure for together in found for figure in _scaling_figures(machine, together)]
    return Section(title, lead, figures)


def _scaling_figures(machine: Machine, together: Sequence[Curve]) -> list[Figure]:
    first = together[0]
    over = first.over
    axis = _AXIS_NAMES.get(over, (over, over, over))[2]
    runs = "; ".join({where(machine, group.run): None for curve in together for group in curve.groups})
    unit = "ms per call" if over == "queries" else "ms per query"
    title = f"Time over {axis}"
    if fixed := describe(first.fixed):
        title += f" ({fixed})"
    xs = [x for curve in together for x in curve.x]
    ys = [y for curve in together for y in curve.y]
    log = (_needs_log(xs), _needs_log(ys))
    drawn = [
        charts.Line(
            curve.name,
            list(zip(curve.x, curve.y, strict=True)),
            style=style,
            fitted=_fitted(curve, log=log[0]),
            faded=[row.noisy for row in curve.rows],
        )
        for style, curve in _styled(together)
    ]
    figures = [
        Figure(
            title,
            where=runs,
            plot=charts.lines(
                drawn,
                x_title=_axis(axis, log[0]),
                y_title=_axis(f"{unit}, median", log[1]),
                label=f"{title} of {', '.join(curve.name for curve in together)}; the table has all points",
                log=log,
            ),
            tables=[_points(curve, unit) for curve in together],
            notes=[_sentence(curve, unit) for curve in together],
        )
    ]
    if over in ("vectors", "width"):
        figures += _memory(together, axis, fixed, runs, log=log[0])
    return figures


def _styled(together: Sequence[Curve]) -> list[tuple[int, Curve]]:
    """Assign styles to curves; style 0, with bold labels, is reserved for ours."""
    ours = next((curve for curve in together if curve.ours), None)
    others = [curve for curve in together if curve is not ours]
    return [*([(0, ours)] if ours else []), *enumerate(others, start=1)]


def _memory(together: Sequence[Curve], axis: str, fixed: str, runs: str, *, log: bool) -> list[Figure]:
    """Return index memory per document, for curves with at least two known points."""
    drawn, lines = [], []
    for style, curve in _styled(together):
        known = [
            (x, each) for x, each in zip(curve.x, curve.bytes_per_document, strict=True) if each is not None
        ]
        if len(known) > 1:
            drawn.append(charts.Line(curve.name, known, style=style))
            lines += [Line([Cell(curve.name), _x_cell(x), number(each)]) for x, each in known]
    if not drawn:
        return []
    title = f"Memory over {axis}"
    return [
        Figure(
            f"{title} ({fixed})" if fixed else title,
            where=runs,
            plot=charts.lines(
                drawn,
                x_title=_axis(axis, log),
                y_title="index bytes per document",
                label=f"{title}; the table has all points",
                log=(log, False),
            ),
            tables=[Table([("", ""), (axis, "n"), ("bytes per document", "n")], lines, folded="The points")],
        )
    ]


def _axis(title: str, log: bool) -> str:
    return f"{title} (logarithmic)" if log else title


def _needs_log(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) / min(values) > _LOG_AXIS_SPAN


def _fitted(curve: Curve, *, log: bool) -> list[tuple[float, float]]:
    line = curve.fit
    if line is None:
        return []
    xs = [x for x, used in zip(curve.x, line.fitted, strict=True) if used]
    some = np.geomspace(min(xs), max(xs), 40) if log else np.linspace(min(xs), max(xs), 40)
    return [(float(x), line.at(float(x))) for x in some]


def _points(curve: Curve, unit: str) -> Table:
    line = curve.fit
    lines = []
    for i, row in enumerate(curve.rows):
        marks = ["noisy: do not quote"] * row.noisy + ["in cache"] * row.in_cache
        lines.append(
            Line(
                [
                    _x_cell(curve.x[i]),
                    number(curve.y[i]),
                    Cell(MISSING)
                    if line is None
                    else number(line.at(curve.x[i]), small="" if line.within(curve.x, i) else "extrapolated"),
                    Cell(MISSING)
                    if line is None
                    else Cell(f"{signed(100 * line.residuals[i], 1)} %", value=line.residuals[i]),
                    number(row.p50_ms),
                    number(row.p95_ms),
                    number(row.p99_ms),
                    number(curve.bytes_per_document[i]),
                    number(row.rate),
                    share(None if row.limit is None else row.limit["share"]),
                    Cell(", ".join([*marks, row.note] if row.note else marks)),
                ],
                "faded" if row.noisy else "",
            )
        )
    columns = [
        *(
            (_AXIS_NAMES.get(curve.over, (curve.over,) * 3)[1], "n"),
            (unit, "n"),
            ("on the line", "n"),
            ("off by", "n"),
        ),
        *(
            ("p50 per call, ms", "n"),
            ("p95", "n"),
            ("p99", "n"),
            ("bytes per document", "n"),
            ("per second", "n"),
        ),
        *(("of the limit", "n"), ("", "note")),
    ]
    return Table(columns, lines, folded=f"{curve.name}: the points")


def _x_cell(x: float) -> Cell:
    return Cell(f"{x:,.0f}" if x == int(x) else f"{x:g}", value=x)


def _sentence(curve: Curve, unit: str) -> str:
    """Describe the fit and its outliers."""
    line = curve.fit
    one, several, _ = _AXIS_NAMES.get(curve.over, (curve.over,) * 3)
    if line is None:
        return f"{curve.name}: {len(curve.rows)} points, too few for a line."
    if line.power:
        statement = f"time goes with the number of {several} to the power {line.slope:.2f}"
    else:
        step, named = (1_000_000, f"million {several}") if curve.over == "vectors" else (1, one)
        statement = f"the line is {_signed(line.slope * step)} ms per {named} and, extrapolated to zero, {_signed(line.intercept)} ms"
    worst = max(abs(residual) for residual in line.residuals)
    if not line.outliers:
        bend = f"no point is further than {100 * worst:.0f} % from it"
    else:
        points = [
            f"{_x_cell(curve.x[i]).text} ({100 * abs(line.residuals[i]):.0f} % {'above' if line.residuals[i] > 0 else 'below'})"
            for i in line.outliers
        ]
        bend = f"it bends: further than {100 * MAX_DEVIATION:.0f} % from the line {'is' if len(points) == 1 else 'are'} {', '.join(points)}"
    cached = [x for x, row in zip(curve.x, curve.rows, strict=True) if row.in_cache]
    if cached and len(cached) < len(curve.rows):
        bend += f"; up to {_x_cell(max(cached)).text} {several} the data fits in the last-level cache"
        bend += "" if all(line.fitted) else ", and the line is fitted to the points beyond"
    noisy = sum(row.noisy for row in curve.rows)
    if noisy:
        bend += f"; {noisy} of its points {'is' if noisy == 1 else 'are'} noisy"
    name = "" if curve.name == OURS else f"{curve.name}: "
    sentence = f"{name}{statement}; {bend}."
    return sentence[0].upper() + sentence[1:] if not name else sentence


def _signed(value: float) -> str:
    return f"{'minus ' if value < 0 else ''}{significant(abs(value))}"
