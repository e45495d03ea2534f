"""Accuracy against latency, and asymmetric models against symmetric ones."""

from __future__ import annotations

from collections.abc import Sequence

from care_accel.report import charts
from care_accel.report.analysis import Pair, pairs, pareto_front
from care_accel.report.blocks import Cell, Figure, Line, Section, Table, megabytes, number, share, where
from care_accel.report.measured import Group, Machine, Row

_MISSING = "No benchmark of this kind has been run: pytest bench/test_tradeoff.py --benchmark-only"


def accuracy_against_latency(machine: Machine, groups: Sequence[Group]) -> Section:
    """Return a plot a task of every row that has a quality."""
    title = "Accuracy against latency"
    figures = [
        _front(machine, group, task, rows) for group in groups for task, rows in _by_task(group).items()
    ]
    if not figures:
        return Section(title, notes=[_MISSING])
    lead = (
        "A mark is one configuration: its accuracy on the task, and the median time of one query on this machine. The "
        "dashed line joins the Pareto front; whatever is not on it is beaten by something that is no slower and no less "
        "accurate. Where a name has no room, its number in the table stands for it."
    )
    return Section(title, lead, figures)


def _by_task(group: Group) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in group.rows:
        if row.quality is not None:
            found.setdefault(f"{row.quality['task']}, {row.quality.get('metric', 'score')}", []).append(row)
    return found


def _front(machine: Machine, group: Group, task: str, rows: Sequence[Row]) -> Figure:
    rows = sorted(rows, key=lambda row: (row.ms_per_query, row.name))
    quoted = [row for row in rows if not row.noisy]
    points = [(row.ms_per_query, _score(row)) for row in quoted]
    front = {quoted[i].name for i in pareto_front(points)}
    plot = charts.scatter(
        [
            charts.Point(
                i,
                row.name,
                row.ms_per_query,
                100 * _score(row),
                style=_style(row),
                front=row.name in front,
                faded=row.noisy,
            )
            for i, row in enumerate(rows, start=1)
        ],
        x_title="ms a query, median (logarithmic)",
        y_title=f"{task}, percent",
        label=f"Accuracy on {task} against the time of a query for {len(rows)} configurations; the table has them all",
    )
    lines = [
        Line(
            [
                Cell(row.name),
                Cell(str(i)),
                share(_score(row), 2),
                number(row.ms_per_query),
                number(row.per_query(row.p95_ms)),
                number(row.per_query(row.p99_ms)),
                number(row.ratio),
                megabytes(row.model_bytes),
                megabytes(row.bytes),
                Cell(", ".join(_marks(row, front))),
            ],
            " ".join(["ours"] * row.ours + ["faded"] * row.noisy),
        )
        for i, row in enumerate(rows, start=1)
    ]
    columns = [
        *(
            ("configuration", ""),
            ("no.", "n"),
            ("score", "n"),
            ("ms a query, p50", "n"),
            ("p95", "n"),
            ("p99", "n"),
        ),
        *(("time over ours", "n"), ("model, MB", "n"), ("index, MB", "n"), ("", "note")),
    ]
    kinds = [("ours", 0), ("asymmetric", 1), ("symmetric", 2), ("words, or words and vectors", 3)]
    used = {_style(row) for row in rows}
    notes = []
    if any(row.noisy for row in rows):
        notes.append(
            "Hollow marks and grey rows are noisy: do not quote them. They are no part of the front."
        )
    if not quoted:
        notes.append(
            "All rows are noisy, so that there is no front to draw: measure again on a quiet machine."
        )
    legend = charts.legend([(name, style) for name, style in kinds if style in used])
    return Figure(
        group.name if task.partition(",")[0] in group.name else f"{task}: {group.name}",
        where=where(machine, group.run),
        plot=legend + plot,
        tables=[Table(columns, lines)],
        notes=notes,
    )


def _score(row: Row) -> float:
    assert row.quality is not None
    return float(row.quality["score"])


def _style(row: Row) -> int:
    if row.ours:
        return 0
    return {"symmetric": 2, "asymmetric": 1}.get(str(row.parameters.get("family")), 3)


def _marks(row: Row, front: set[str]) -> list[str]:
    marks = ["on the front"] if row.name in front and not row.noisy else []
    marks += ["noisy: do not quote"] * row.noisy + ["in cache"] * row.in_cache
    return [*marks, row.note] if row.note else marks


def asymmetric_against_symmetric(machine: Machine, groups: Sequence[Group]) -> Section:
    """Return what asymmetry costs and wins, of every pair that differs in nothing else."""
    title = "Asymmetric against symmetric"
    found = pairs(groups)
    if not found:
        note = "No pair of an asymmetric and a symmetric model has been measured: pytest bench/test_tradeoff.py --benchmark-only"
        return Section(title, notes=[note])
    lead = (
        "The small query encoder in place of the document encoder: what of the symmetric model's time, accuracy and "
        "memory is left. The thin line is 100 %, the symmetric model itself."
    )
    runs = {where(machine, pair.group.run): None for pair in found}
    longest = max([1.0, *(value for pair in found for value in _shares(pair) if value is not None)])
    bars = [
        Line(
            [
                _name(pair),
                *(cell for value in _shares(pair) for cell in _bar(value, longest, faded=bool(_faded(pair)))),
            ],
            _faded(pair),
        )
        for pair in found
    ]
    names = ("time", "accuracy", "model memory", "index")
    columns = [("pair", ""), *(column for name in names for column in (("", "bar"), (name, "n")))]
    figure = Figure(
        "The asymmetric model as a share of the symmetric one",
        where="; ".join(runs),
        tables=[Table(columns, bars), Table(_COLUMNS, [_line(pair) for pair in found])],
        notes=["Noisy rows are grey: do not quote."] if any(map(_faded, found)) else [],
    )
    return Section(title, lead, [figure])


_COLUMNS = (
    *(
        ("pair", ""),
        ("suite and task", "note"),
        ("speed-up", "n"),
        ("ms a query, p50", "n"),
        ("p95", "n"),
        ("p99", "n"),
    ),
    *(("score", "n"), ("kept", "n"), ("model, MB", "n"), ("index, MB", "n")),
)


def _shares(pair: Pair) -> list[float | None]:
    a, s = pair.asymmetric, pair.symmetric
    memory = [
        ours / theirs if ours is not None and theirs else None
        for ours, theirs in ((a.model_bytes, s.model_bytes), (a.bytes, s.bytes))
    ]
    return [a.p50_ms / s.p50_ms, pair.kept, *memory]


def _bar(value: float | None, longest: float, *, faded: bool) -> list[Cell]:
    if value is None:
        return [Cell(kind="bar"), share(None)]
    drawn = charts.bar(
        0,
        value / longest,
        style=1,
        faded=faded,
        rule=1 / longest,
        label=f"{100 * value:.1f} % of the symmetric model",
    )
    return [Cell(drawn=drawn, kind="bar"), share(value, 1)]


def _line(pair: Pair) -> Line:
    a, s = pair.asymmetric, pair.symmetric

    def both(first: float | None, second: float | None, scale: float = 1) -> Cell:
        of_symmetric = number(second, scale=scale).text
        return number(first, scale=scale, small=f"from {of_symmetric}")

    scores = [None if row.quality is None else float(row.quality["score"]) for row in (a, s)]
    quality = a.quality or {}
    measured = [pair.group.suite, *(quality[key] for key in ("task", "metric") if key in quality)]
    return Line(
        [
            _name(pair),
            Cell(", ".join(map(str, measured)), small="; ".join(pair.unlike)),
            Cell(f"{number(pair.speed_up).text}x", value=pair.speed_up),
            both(a.ms_per_query, s.ms_per_query),
            both(a.per_query(a.p95_ms), s.per_query(s.p95_ms)),
            both(a.per_query(a.p99_ms), s.per_query(s.p99_ms)),
            Cell("–")
            if scores[0] is None
            else Cell(
                f"{100 * scores[0]:.2f}",
                value=scores[0],
                small="" if scores[1] is None else f"from {100 * scores[1]:.2f}",
            ),
            share(pair.kept, 1),
            both(a.model_bytes, s.model_bytes, 1e-6),
            both(a.bytes, s.bytes, 1e-6),
        ],
        _faded(pair),
    )


def _name(pair: Pair) -> Cell:
    """Name both sides, and the group, which says what was measured."""
    return Cell(f"{pair.asymmetric.name}, not {pair.symmetric.name}", small=pair.group.name)


def _faded(pair: Pair) -> str:
    return "faded" if pair.asymmetric.noisy or pair.symmetric.noisy else ""
