"""Break-even points: the index size from which each approximate search is faster than exact search."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from care_accel.report.drawing import charts
from care_accel.report.drawing.axes import tick_text
from care_accel.report.drawing.blocks import MISSING, Cell, Figure, Line, Table, number, spread, where
from care_accel.report.results.analysis import BreakEven, RecallRows, break_even, rows_at_recall
from care_accel.report.results.benchmarks import Group, Machine, Row

RECALLS = (0.99, 0.999)
_FASTEST = "the fastest of them"


def break_even_figures(machine: Machine, groups: Sequence[Group]) -> list[Figure]:
    """Return a figure for each recall and set of fixed parameters: all approximate searches over the index size."""
    found = {recall: rows_at_recall(groups, recall) for recall in RECALLS}
    cases = dict.fromkeys(case for some in found.values() for case in some)
    return [_figure(machine, case, recall, found[recall][case]) for case in cases for recall in RECALLS]


def _figure(machine: Machine, case: str, recall: float, entries: Sequence[RecallRows]) -> Figure:
    title = f"Where exact search loses at recall {recall} ({case})"
    runs = "; ".join(dict.fromkeys(where(machine, one.group.run) for one in entries))
    named: dict[str, list[tuple[float, Row]]] = {}
    for n, _, rows in entries:
        fastest_of = {_search(row): row for row in reversed(rows)}
        for name, row in fastest_of.items():
            named.setdefault(name, []).append((n, row))
    if not named:
        return Figure(title, runs, notes=[f"Recall {recall}: no approximate row reaches it."])
    fastest = [(n, rows[0]) for n, _, rows in entries if rows]
    note = f"Recall {recall}: {describe_break_even(break_even(_ratios(fastest)))}"
    if noisy := [n for n, row in fastest if row.noisy]:
        note += f" At {_counts(noisy)} vectors the fastest row is noisy: do not quote it."
    if without := [n for n, _, rows in entries if not rows]:
        note += f" At {_counts(without)} vectors no approximate row reaches it."
    sizes = [n for n, _, _ in entries]
    lines = [_break_even_line(name, points, sizes) for name, points in sorted(named.items())]
    columns = [
        *(("approximate search", ""), ("exact search loses from", "n"), ("over ours at the fewest", "n")),
        *(("at the most", "n"), ("", "note")),
    ]
    measured = [_point_line(name, n, row) for name, points in sorted(named.items()) for n, row in points]
    of_points = [
        *(("approximate search", ""), ("vectors", "n"), ("recall here", "n"), ("over ours", "n")),
        *(("p50, ms", "n"), ("", "note")),
    ]
    tables = [
        Table(columns, [*lines, _break_even_line(_FASTEST, fastest, sizes, kind="total")]),
        Table(of_points, measured, folded="The points"),
    ]
    return Figure(title, runs, _plot(named), tables, [f"Below the line exact search loses. {note}"])


def _plot(named: dict[str, list[tuple[float, Row]]]) -> charts.Markup | None:
    if len({n for points in named.values() for n, _ in points}) < 2:
        return None
    return charts.lines(
        [
            charts.Line(name, _ratios(points), style=style, faded=[row.noisy for _, row in points])
            for style, (name, points) in enumerate(sorted(named.items()), start=1)
        ],
        x_title="vectors in the index (logarithmic)",
        y_title="time over ours (logarithmic)",
        label="Time of each approximate search over ours, by the number of vectors; the table has all points",
        log=(True, True),
        rule=1.0,
    )


def _search(row: Row) -> str:
    """Return the name of a row without the recall that it was tuned for."""
    return row.name.rpartition(", recall ")[0] or row.name


def _ratios(points: Iterable[tuple[float, Row]]) -> list[tuple[float, float]]:
    return [(n, row.ratio or math.nan) for n, row in points]


def _counts(numbers: Iterable[float]) -> str:
    return ", ".join(f"{n:,.0f}" for n in numbers)


def _break_even_line(
    name: str, points: Sequence[tuple[float, Row]], sizes: Sequence[float], *, kind: str = ""
) -> Line:
    """Return the table row of one search, with its break-even point within the measured range."""
    remarks = []
    if noisy := [n for n, row in points if row.noisy]:
        remarks.append(f"noisy at {_counts(noisy)}: do not quote")
    if without := sorted(set(sizes) - {n for n, _ in points}):
        remarks.append(f"no row at {_counts(without)}")
    ends = [
        number(row.ratio, small=f"{n:,.0f} vectors", kind="faded" if row.noisy else "")
        for n, row in (points[0], points[-1])
    ]
    return Line(
        [Cell(name), _break_even_cell(break_even(_ratios(points))), *ends, Cell("; ".join(remarks))], kind
    )


def _break_even_cell(found: BreakEven) -> Cell:
    first, last = (f"{found.points[i][0]:,.0f}" for i in (0, -1))
    if found.alternates:
        some = _counts(n for n, ratio in found.points if ratio < 1)
        return Cell(f"only at {some}", small=f"wins again at {last}, the most")
    if found.above is None:
        return Cell("not reached", small=f"up to {last}, the most")
    if found.about is None:
        return Cell(f"{first} or fewer", small="at every measured size")
    between = f"interpolated between {found.below:,.0f} and {found.above:,.0f}"
    return Cell(f"about {_rounded(found.about)}", value=found.about, small=between)


def _point_line(name: str, vectors: float, row: Row) -> Line:
    recalled = Cell(MISSING) if row.recall is None else Cell(f"{row.recall:.4f}", value=row.recall)
    return Line(
        [
            Cell(name, small=row.note),
            Cell(f"{vectors:,.0f}", value=vectors),
            recalled,
            number(row.ratio, small=spread(row.ratios)),
            number(row.p50_ms),
            Cell("noisy: do not quote" if row.noisy else ""),
        ],
        "faded" if row.noisy else "",
    )


def _rounded(value: float) -> str:
    return tick_text(float(f"{value:.2g}"))


def describe_break_even(found: BreakEven) -> str:
    """Describe a break-even point, within the measured range."""
    first, last = (f"{found.points[i][0]:,.0f}" for i in (0, -1))
    if found.alternates:
        return f"exact search loses at some sizes, and wins again at {last} vectors; see the table."
    if found.above is None:
        return f"exact search does not lose up to {last} vectors, the most that was compared."
    if found.below is None:
        return f"exact search loses at every measured size, from {first} vectors on."
    about = f" (about {_rounded(found.about)}, interpolated)" if found.about else ""
    return f"exact search loses from between {found.below:,.0f} and {found.above:,.0f} vectors on{about}."
