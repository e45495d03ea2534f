"""Accuracy against latency, and asymmetric models against symmetric ones."""

from __future__ import annotations

from collections.abc import Sequence

from care_accel.report.drawing import charts
from care_accel.report.drawing.blocks import (
    MISSING,
    Cell,
    Figure,
    Line,
    Section,
    Table,
    megabytes,
    number,
    share,
    spread,
    where,
)
from care_accel.report.results.analysis import Pair, pairs, pareto_front
from care_accel.report.results.benchmarks import Group, Machine, Row

_MISSING = "No benchmark of this kind has been run: pytest bench/encoding/test_tradeoff.py --benchmark-only"


def accuracy_against_latency(machine: Machine, groups: Sequence[Group]) -> Section:
    """Return a plot per task of all rows with a measured accuracy."""
    title = "Accuracy against latency"
    figures = [
        _front(machine, group, task, rows) for group in groups for task, rows in _by_task(group).items()
    ]
    if not figures:
        return Section(title, notes=[_MISSING])
    lead = (
        "Each mark is one configuration: its accuracy on the task and the median time per query on this machine. The dashed "
        "line is the Pareto front; all other configurations are dominated by one that is no slower and no less accurate. "
        "Names that do not fit are replaced by their number in the table."
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
        x_title="ms per query, median (logarithmic)",
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
            ("ms per query, p50", "n"),
            ("p95", "n"),
            ("p99", "n"),
        ),
        *(("time over ours", "n"), ("model, MB", "n"), ("index, MB", "n"), ("", "note")),
    ]
    kinds = [("ours", 0), ("asymmetric", 1), ("symmetric", 2), ("BM25 or hybrid", 3)]
    used = {_style(row) for row in rows}
    notes = []
    if any(row.noisy for row in rows):
        notes.append(
            "Hollow marks and grey rows are noisy: do not quote them. They are excluded from the Pareto front."
        )
    if not quoted:
        notes.append("All rows are noisy, so there is no Pareto front: measure again on an idle machine.")
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
    marks = ["on the Pareto front"] if row.name in front and not row.noisy else []
    marks += ["noisy: do not quote"] * row.noisy + ["in cache"] * row.in_cache
    return [*marks, row.note] if row.note else marks


def asymmetric_against_symmetric(machine: Machine, groups: Sequence[Group]) -> Section:
    """Compare asymmetric with symmetric models: a plot and a table of the pairs with known accuracy, the rest folded."""
    title = "Asymmetric against symmetric"
    found = pairs(groups)
    if not found:
        note = "No pair of an asymmetric and a symmetric model has been measured: pytest bench/encoding/test_tradeoff.py --benchmark-only"
        return Section(title, notes=[note])
    lead = (
        "Time, accuracy and memory with the small query encoder, as shares of the symmetric model, which has the document "
        "encoder on both sides. The vertical line is 100 %; times have the range over blocks. A speed-up is the median over "
        "blocks that ran side by side, so it may differ slightly from the quotient of the two times."
    )
    shown = [pair for pair in found if pair.retained is not None] or found
    folded = [pair for pair in found if pair not in shown]
    names = [f"{i}. {pair.asymmetric.name}" for i, pair in enumerate(shown, start=1)]
    plot = charts.legend([(name, style) for style, name in enumerate(_SHARES, start=1)]) + charts.intervals(
        [(name, _shares(pair)) for name, pair in zip(names, shown, strict=True)],
        x_title="percent of the symmetric model",
        label=f"Time, accuracy and memory of {len(shown)} asymmetric models as shares of the symmetric ones; the table has all numbers",
        rule=100,
    )
    tables = [Table(_COLUMNS, [_line(pair, f"{i}. ") for i, pair in enumerate(shown, start=1)])]
    if folded:
        words = f"Pairs without a measured accuracy ({len(folded)}), such as encoders alone"
        tables.append(Table(_COLUMNS, [_line(pair) for pair in folded], folded=words))
    runs = dict.fromkeys(where(machine, pair.group.run) for pair in found)
    notes = ["Hollow marks and grey rows are noisy: do not quote them."] if any(map(_noisy, found)) else []
    figure = Figure(
        "The asymmetric model as a share of the symmetric one", "; ".join(runs), plot, tables, notes
    )
    return Section(title, lead, [figure])


_SHARES = ("time", "accuracy", "model memory", "index")
_COLUMNS = (
    *(("pair", ""), ("speed-up", "n"), ("ms per query, p50", "n"), ("score", "n"), ("retained", "n")),
    *(("model, MB", "n"), ("index, MB", "n"), ("also differs in", "note")),
)


def _shares(pair: Pair) -> list[charts.Interval]:
    """Return time, accuracy and memory in percent of the symmetric model, if known."""
    a, s, ratio = pair.asymmetric, pair.symmetric, pair.ratio
    found: dict[str, list[float]] = {}
    if ratio is not None:
        found["time"] = [100 / one for one in (ratio.value, *ratio.blocks)]
    if pair.retained is not None:
        found["accuracy"] = [100 * pair.retained]
    for name, ours, theirs in (("model memory", a.model_bytes, s.model_bytes), ("index", a.bytes, s.bytes)):
        if ours is not None and theirs:
            found[name] = [100 * ours / theirs]
    return [
        charts.Interval(
            name,
            values[0],
            min(values),
            max(values),
            style,
            faded=name == "time" and _noisy(pair),
        )
        for style, name in enumerate(_SHARES, start=1)
        if (values := found.get(name))
    ]


def _line(pair: Pair, number_of: str = "") -> Line:
    a, s, ratio = pair.asymmetric, pair.symmetric, pair.ratio

    def both(first: float | None, second: float | None, scale: float = 1) -> Cell:
        small = "" if second is None else f"from {number(second, scale=scale).text}"
        return number(first, scale=scale, small=small)

    scores = [None if row.quality is None else float(row.quality["score"]) for row in (a, s)]
    return Line(
        [
            Cell(f"{number_of}{a.name}, not {s.name}", small=f"{pair.group.suite}: {pair.group.name}"),
            Cell(MISSING)
            if ratio is None
            else Cell(f"{number(ratio.value).text}x", value=ratio.value, small=spread(ratio.blocks)),
            both(a.ms_per_query, s.ms_per_query),
            Cell(MISSING)
            if scores[0] is None
            else Cell(
                f"{100 * scores[0]:.2f}",
                value=scores[0],
                small="" if scores[1] is None else f"from {100 * scores[1]:.2f}",
            ),
            share(pair.retained, 1),
            both(a.model_bytes, s.model_bytes, 1e-6),
            both(a.bytes, s.bytes, 1e-6),
            Cell(", ".join([*pair.differences, *["noisy: do not quote"] * _noisy(pair)])),
        ],
        "faded" if _noisy(pair) else "",
    )


def _noisy(pair: Pair) -> bool:
    return pair.ratio is not None and pair.ratio.noisy
