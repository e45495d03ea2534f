"""Comparison with peers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from care_accel.report.drawing import charts
from care_accel.report.drawing.axes import tick_text
from care_accel.report.drawing.blocks import (
    Cell,
    Figure,
    Line,
    Section,
    Table,
    number,
    pluralise,
    share,
    spread,
    where,
)
from care_accel.report.results.benchmarks import Group, Machine, Row, Run
from care_accel.report.sections.break_even import break_even_figures

# Suites with sections of their own.
ELSEWHERE = ("scaling", "tradeoff")


def peers(machine: Machine, groups: Sequence[Group]) -> list[Section]:
    """Return a section per suite and a figure per group: bars of each row's time over ours."""
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
    if any(row.concurrency for group in groups for row in group.rows):
        lead += " Of clients that ask at the same time, a ratio is of the time that all their requests took together."
    figures = [_group(machine, group, low, high) for group in groups]
    if suite == "approximate":
        figures = [*break_even_figures(machine, groups), *figures]
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
            "Grey rows are noisy: the ratios of their blocks, or of this run and the one before, differ by more than 15 %. "
            "Do not quote them."
        )
    if any(row.in_cache for row in rows):
        notes.append("In cache: the data fits in the last-level cache.")
    if any(row.limit is not None and row.limit["share"] > 1 for row in rows):
        notes.append("More than 100 % of a limit: data came from a cache, or a row is faster than the probe.")
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
                number(row.ratio, small="" if row.ours else spread(row.ratios)),
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


def _remarks(row: Row) -> str:
    limit = [] if row.limit is None else [f"limit: {row.limit['name']}"]
    marks = (
        ["noisy: do not quote"] * row.noisy + ["not exact"] * (not row.exact) + ["in cache"] * row.in_cache
    )
    clients = [pluralise(row.concurrency, "client")] if row.concurrency else []
    return ", ".join([*marks, *limit, *clients])
