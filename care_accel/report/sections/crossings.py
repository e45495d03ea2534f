"""From which number of vectors on exact search loses to each kind of approximate search."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from care_accel.report.drawing import charts
from care_accel.report.drawing.blocks import MISSING, Cell, Figure, Line, Table, number, spread, where
from care_accel.report.drawing.scales import tick_text
from care_accel.report.results.analysis import Crossing, Reaching, crossing, reaching
from care_accel.report.results.benchmarks import Group, Machine, Row

RECALLS = (0.99, 0.999)
_FASTEST = "the fastest of them"


def crossings(machine: Machine, groups: Sequence[Group]) -> list[Figure]:
    """Return a figure for each recall and each kind of vectors: every approximate search over their number."""
    found = {recall: reaching(groups, recall) for recall in RECALLS}
    cases = dict.fromkeys(case for some in found.values() for case in some)
    return [_figure(machine, case, recall, found[recall][case]) for case in cases for recall in RECALLS]


def _figure(machine: Machine, case: str, recall: float, entries: Sequence[Reaching]) -> Figure:
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
    note = f"Recall {recall}: {said(crossing(_ratios(fastest)))}"
    if noisy := [n for n, row in fastest if row.noisy]:
        note += f" At {_counts(noisy)} vectors the fastest row is noisy: do not quote it."
    if without := [n for n, _, rows in entries if not rows]:
        note += f" At {_counts(without)} vectors no approximate row reaches it."
    sizes = [n for n, _, _ in entries]
    lines = [_loses(name, points, sizes) for name, points in sorted(named.items())]
    columns = [
        *(("approximate search", ""), ("exact search loses from", "n"), ("over ours at the fewest", "n")),
        *(("at the most", "n"), ("", "note")),
    ]
    measured = [_measured(name, n, row) for name, points in sorted(named.items()) for n, row in points]
    of_points = [
        *(("approximate search", ""), ("vectors", "n"), ("recall here", "n"), ("over ours", "n")),
        *(("p50, ms", "n"), ("", "note")),
    ]
    tables = [
        Table(columns, [*lines, _loses(_FASTEST, fastest, sizes, kind="total")]),
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
    """Return what a row is called without the recall that it was tuned to."""
    return row.name.rpartition(", recall ")[0] or row.name


def _ratios(points: Iterable[tuple[float, Row]]) -> list[tuple[float, float]]:
    return [(n, row.ratio or math.nan) for n, row in points]


def _counts(numbers: Iterable[float]) -> str:
    return ", ".join(f"{n:,.0f}" for n in numbers)


def _loses(name: str, points: Sequence[tuple[float, Row]], sizes: Sequence[float], *, kind: str = "") -> Line:
    """Return the line of one search: the number from which on it is faster, as far as was measured."""
    remarks = []
    if noisy := [n for n, row in points if row.noisy]:
        remarks.append(f"noisy at {_counts(noisy)}: do not quote")
    if without := sorted(set(sizes) - {n for n, _ in points}):
        remarks.append(f"no row at {_counts(without)}")
    ends = [
        number(row.ratio, small=f"{n:,.0f} vectors", kind="faded" if row.noisy else "")
        for n, row in (points[0], points[-1])
    ]
    return Line([Cell(name), _from(crossing(_ratios(points))), *ends, Cell("; ".join(remarks))], kind)


def _from(found: Crossing) -> Cell:
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


def _measured(name: str, vectors: float, row: Row) -> Line:
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


def said(found: Crossing) -> str:
    """Say from where on exact search loses; nothing about what was not measured."""
    first, last = (f"{found.points[i][0]:,.0f}" for i in (0, -1))
    if found.alternates:
        return f"exact search loses at some sizes, and wins again at {last} vectors; see the table."
    if found.above is None:
        return f"exact search does not lose up to {last} vectors, the most that was compared."
    if found.below is None:
        return f"exact search loses at every measured size, from {first} vectors on."
    about = f" (about {_rounded(found.about)}, interpolated)" if found.about else ""
    return f"exact search loses from between {found.below:,.0f} and {found.above:,.0f} vectors on{about}."
