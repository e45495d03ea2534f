"""Ours beside every peer, and from where on exact search loses to approximate search."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from care_accel.report import charts
from care_accel.report.analysis import Crossing, crossing, fastest_at_recall
from care_accel.report.blocks import MISSING, Cell, Figure, Line, Section, Table, number, share, where
from care_accel.report.measured import Group, Machine, Row, Run
from care_accel.report.scales import tick_text

# Shown in sections of their own.
ELSEWHERE = ("scaling", "tradeoff")
RECALLS = (0.99, 0.999)


def peers(machine: Machine, groups: Sequence[Group]) -> list[Section]:
    """Return a section a suite, with a figure a group: bars of each row's time over ours."""
    suites: dict[str, list[Group]] = {}
    for group in groups:
        if group.suite not in ELSEWHERE:
            suites.setdefault(group.suite, []).append(group)
    if not suites:
        return [Section("Peers", notes=["No peers have been measured: pytest bench --benchmark-only"])]
    return [_suite(machine, suite, some) for suite, some in suites.items()]


def _suite(machine: Machine, suite: str, groups: Sequence[Group]) -> Section:
    ratios = [row.ratio for group in groups for row in group.rows if row.ratio is not None]
    low, high = min([1.0, *ratios]), max([1.0, *ratios])
    lead = (
        f"Bars: each row's time over ours, from {_rounded(low)} to {_rounded(high)} on a logarithmic scale; right of the "
        "thin line is slower than ours, left of it faster. Times are of one call; ratios are the median of the "
        "neighbouring blocks of one run, and the small print is their range."
    )
    figures = [_group(machine, group, low, high) for group in groups]
    if suite == "approximate":
        figures = [*_crossings(machine, groups), *figures]
    return Section(f"Peers: {suite}", lead, figures)


def _minute(run: Run) -> str:
    return run.started[:16].replace("T", " ")


def _rounded(value: float) -> str:
    return tick_text(float(f"{value:.2g}"))


def _group(machine: Machine, group: Group, low: float, high: float) -> Figure:
    rows = sorted(group.rows, key=lambda row: row.p50_ms)
    latest = machine.latest
    notes = []
    if group.run is not latest:
        notes.append(
            f"Not in the latest run ({_minute(latest)}) but in that of {_minute(group.run)}, revision {group.run.revision}."
        )
    if any(row.noisy for row in rows):
        notes.append(
            "Grey rows are noisy: the ratios of their blocks, or of this run and the one before, lie more than 15 % apart. "
            "Do not quote them."
        )
    if any(row.in_cache for row in rows):
        notes.append("In cache: the data fits in the last-level cache.")
    optional = [
        (title, cells)
        for title, cells in (
            ("of the limit", [share(None if r.limit is None else r.limit["share"]) for r in rows]),
            (
                "recall",
                [Cell("–") if r.recall is None else Cell(f"{r.recall:.4f}", value=r.recall) for r in rows],
            ),
            ("a second", [number(r.rate) for r in rows]),
            ("index, MB", [number(r.bytes, scale=1e-6) for r in rows]),
            ("model, MB", [number(r.model_bytes, scale=1e-6) for r in rows]),
        )
        if any(cell.value is not None for cell in cells)
    ]
    lines = [
        Line(
            [
                Cell(row.name, small=row.note),
                _ratio_bar(row, low, high),
                number(row.ratio, small=_spread(row)),
                number(row.p50_ms),
                number(row.p95_ms),
                number(row.p99_ms),
                Cell("" if row.rounds is None else f"{row.rounds:,}", value=row.rounds),
                *(cells[i] for _, cells in optional),
                Cell(_remarks(row)),
            ],
            " ".join(["ours"] * row.ours + ["faded"] * row.noisy),
        )
        for i, row in enumerate(rows)
    ]
    columns = [
        *(
            ("", ""),
            ("", "bar"),
            ("over ours", "n"),
            ("p50, ms", "n"),
            ("p95", "n"),
            ("p99", "n"),
            ("rounds", "n"),
        ),
        *((title, "n") for title, _ in optional),
        ("", "note"),
    ]
    return Figure(group.name, where=where(machine, group.run), tables=[Table(columns, lines)], notes=notes)


def _ratio_bar(row: Row, low: float, high: float) -> Cell:
    span = math.log(high / low)
    if row.ratio is None or span <= 0:
        return Cell(kind="bar")
    one, end = math.log(1 / low) / span, math.log(row.ratio / low) / span
    label = "ours" if row.ours else f"{row.ratio:.3g} times the time of ours"
    style = 0 if row.ours else 1 if row.exact else 3
    return Cell(drawn=charts.bar(one, end, style=style, faded=row.noisy, rule=one, label=label), kind="bar")


def _spread(row: Row) -> str:
    """Say how far the blocks' ratios lie apart."""
    if row.ours or len(row.ratios) < 2:
        return ""
    return f"{number(min(row.ratios)).text} to {number(max(row.ratios)).text}"


def _remarks(row: Row) -> str:
    limit = [] if row.limit is None else [f"limit: {row.limit['name']}"]
    marks = (
        ["noisy: do not quote"] * row.noisy + ["not exact"] * (not row.exact) + ["in cache"] * row.in_cache
    )
    clients = [] if row.concurrency is None else [f"{row.concurrency} clients"]
    return ", ".join([*marks, *limit, *clients])


def _crossings(machine: Machine, groups: Sequence[Group]) -> list[Figure]:
    """Return, for each recall, how the fastest approximate search fares over the number of vectors."""
    found = {recall: fastest_at_recall(groups, recall) for recall in RECALLS}
    figures = []
    for case in dict.fromkeys(case for cases in found.values() for case in cases):
        drawn: list[charts.Line] = []
        lines: list[Line] = []
        notes: list[str] = []
        runs: dict[str, None] = {}
        for style, recall in enumerate(RECALLS, start=1):
            entries = [(n, row, group) for n, row, group in found[recall][case] if row is not None]
            without = [n for n, row, _ in found[recall][case] if row is None]
            if not entries:
                notes.append(f"Recall {recall}: no approximate row reaches it.")
                continue
            points = [(n, row.ratio or math.nan) for n, row, _ in entries]
            noisy = [row.noisy for _, row, _ in entries]
            drawn.append(charts.Line(f"recall {recall}", points, style=style, faded=noisy))
            note = f"Recall {recall}: {said(crossing(points))}"
            if any(noisy):
                note += f" At {_counts(n for n, row, _ in entries if row.noisy)} vectors the fastest row is noisy: do not quote it."
            if without:
                note += f" At {_counts(without)} vectors no approximate row reaches it."
            notes.append(note)
            runs |= {where(machine, group.run): None for _, _, group in entries}
            lines += [_fastest(recall, n, row) for n, row, _ in entries]
        if not drawn:
            continue
        sizes = [x for line in drawn for x, _ in line.points]
        if len(set(sizes)) > 1:
            plot = charts.lines(
                drawn,
                x_title="vectors in the index (logarithmic)",
                y_title="fastest approximate search, time over ours (log.)",
                label="Time of the fastest approximate search over ours, by the number of vectors; the table has all points",
                log=(True, True),
                rule=1.0,
            )
        else:
            plot = None
        columns = [
            ("recall asked", ""),
            ("vectors", "n"),
            ("fastest", "note"),
            ("recall here", "n"),
            ("over ours", "n"),
            ("p50, ms", "n"),
            ("", "note"),
        ]
        figures.append(
            Figure(
                f"Where exact search loses ({case})", "; ".join(runs), plot, [Table(columns, lines)], notes
            )
        )
    return figures


def _counts(numbers: Iterable[float]) -> str:
    return ", ".join(f"{n:,.0f}" for n in numbers)


def _fastest(recall: float, vectors: float, row: Row) -> Line:
    recalled = Cell(MISSING) if row.recall is None else Cell(f"{row.recall:.4f}", value=row.recall)
    return Line(
        [
            Cell(f"{recall}"),
            Cell(f"{vectors:,.0f}", value=vectors),
            Cell(row.name),
            recalled,
            number(row.ratio, small=_spread(row)),
            number(row.p50_ms),
            Cell("noisy: do not quote" if row.noisy else ""),
        ],
        "faded" if row.noisy else "",
    )


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
