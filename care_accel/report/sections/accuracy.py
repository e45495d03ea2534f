"""Accuracy: scores by task with confidence intervals, paired differences, and published scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from care_accel.errors import CareError
from care_accel.eval.report import metric_name, published_scores
from care_accel.eval.statistics.compare import compare, read_run
from care_accel.eval.statistics.resampling import LEVEL, RESAMPLES
from care_accel.report.drawing import charts
from care_accel.report.drawing.blocks import MISSING, Cell, Figure, Line, Part, Section, Table, plain, signed
from care_accel.report.results.scores import Evaluation, Task, average_of, entry_of, tasks_of

_COVERED = f"{100 * (1 - LEVEL):g} %"
MISSING_SCORES = "No model has been evaluated: care-accel eval"


def accuracy(evaluations: Sequence[Evaluation], folder: Path) -> Part:
    """Return the part on accuracy."""
    lead = (
        f"Percent, with {_COVERED} bootstrap intervals over queries or pairs ({RESAMPLES:,} resamples). Apart from "
        "rounding, scores do not depend on the machine; each figure states its provenance."
    )
    if not evaluations:
        missing = Section("Scores a task", notes=[f"{MISSING_SCORES} (looked in {folder}/)"])
        return Part("Accuracy", "accuracy", sections=[missing])
    tasks = tasks_of(evaluations)
    sections = [Section("Scores a task", figures=[_scores(evaluations, tasks)])]
    if len(evaluations) > 1:
        sections.append(_differences(evaluations))
    sections.append(_published(evaluations))
    return Part("Accuracy", "accuracy", lead, sections)


def _scores(evaluations: Sequence[Evaluation], tasks: Sequence[Task]) -> Figure:
    names = [one.model for one in evaluations]
    headings = []
    for task in tasks:
        rows = []
        for style, one in enumerate(evaluations):
            if (entry := entry_of(one, task)) is not None:
                low, high = entry.get("interval") or (entry["main_score"], entry["main_score"])
                rows.append(
                    charts.Interval(one.model, 100 * entry["main_score"], 100 * low, 100 * high, style)
                )
        headings.append((task.name, rows))
    plot = charts.legend([(name, style) for style, name in enumerate(names)]) + charts.intervals(
        headings,
        x_title="score, percent",
        label=f"Scores of {', '.join(names)} on {len(tasks)} tasks with {_COVERED} intervals; the table has all numbers",
    )
    lines = [
        Line(
            [
                Cell(task.name),
                Cell(f"{metric_name(task.metric)}, {task.split}"),
                Cell(f"{task.size:,}", value=task.size),
                *(_score(entry_of(one, task)) for one in evaluations),
            ]
        )
        for task in tasks
    ]
    averages = [average_of(one, tasks) for one in evaluations]
    average = [Cell(MISSING) if a is None else Cell(f"{100 * a:.2f}", value=a) for a in averages]
    lines.append(Line([Cell("average"), Cell(""), Cell(""), *average], "total"))
    columns = [("task", ""), ("metric", ""), ("n", "n"), *((name, "n") for name in names)]
    notes = []
    if any(a is None for a in averages):
        notes.append("Averages are only given for models that ran all tasks.")
    skipped = {
        f"{s.get('task')}: {s.get('reason')}": None for one in evaluations for s in one.summary["skipped"]
    }
    if skipped:
        notes.append(f"Not run: {'; '.join(skipped)}.")
    return Figure("Models on the same tasks", _where(evaluations), plot, [Table(columns, lines)], notes)


def _score(entry: dict[str, Any] | None) -> Cell:
    if entry is None:
        return Cell(MISSING)
    interval = entry.get("interval")
    small = " to ".join(plain(100 * bound, 1) for bound in interval) if interval else ""
    return Cell(plain(100 * entry["main_score"], 2), value=entry["main_score"], small=small)


def _where(evaluations: Sequence[Evaluation]) -> str:
    """Format the provenance of scores, by model if it differs."""
    computed: dict[str, list[str]] = {}
    for one in evaluations:
        computed.setdefault(_computed_with(one.manifest), []).append(one.model)
    if len(computed) == 1:
        return f"computed with {next(iter(computed))}"
    return "computed with " + "; ".join(f"{how}: {', '.join(models)}" for how, models in computed.items())


def _computed_with(manifest: dict[str, Any]) -> str:
    facts = [str(manifest[key]) for key in ("machine",) if manifest.get(key)]
    facts += [f"device {manifest['device']}"] if manifest.get("device") else []
    facts += [f"the first {manifest['limit']} queries or pairs"] if manifest.get("limit") else []
    if manifest.get("kept"):
        facts.append(f"from an earlier run: {', '.join(manifest['kept'])}")
    return ", ".join(facts) or "unrecorded settings"


def _differences(evaluations: Sequence[Evaluation]) -> Section:
    """Return paired differences from the first model, if both have per-query scores."""
    first, *others = evaluations
    figures, notes = [], []
    for other in others:
        try:
            figures.append(_difference(first, other))
        except CareError as reason:
            notes.append(f"{other.model}: {reason}")
    lead = (
        f"Percentage points on the same queries: paired bootstrap confidence interval ({_COVERED}), and p-value of a "
        f"randomisation test, corrected over the tasks of a table by Holm's method. “Significant”: corrected p at most "
        f"{LEVEL}, which does not imply a large difference."
    )
    return Section(f"Differences from {first.model}", lead if figures else "", figures, notes)


def _difference(first: Evaluation, other: Evaluation) -> Figure:
    found = compare(read_run(first.folder), read_run(other.folder), top=0)  # the page names no query
    lines = []
    for one in found.tasks:
        d = one.difference
        counts = [one.better, one.equal, one.worse]
        lines.append(
            Line(
                [
                    Cell(d.task),
                    Cell(f"{d.n:,}", value=d.n),
                    Cell(signed(100 * d.difference, 2), value=d.difference),
                    Cell(" to ".join(signed(100 * bound, 2) for bound in d.interval)),
                    Cell(_p(d.p_value), value=d.p_value),
                    Cell(_p(d.adjusted), value=d.adjusted),
                    Cell("significant" if d.significant else "not significant"),
                    *(Cell(MISSING) if n is None else Cell(f"{n:,}", value=n) for n in counts),
                ]
            )
        )
    notes = [f"{one.task}: {one.reason}" for one in found.left_out]
    if notes:
        notes = [f"Not compared (A is {first.model}, B {other.model}): {'; '.join(notes)}."]
    title = f"{other.model} less {first.model}"
    return Figure(title, _where([first, other]), tables=[Table(_DIFFERENCE_COLUMNS, lines)], notes=notes)


_DIFFERENCE_COLUMNS = (
    *(("task", ""), ("n", "n"), ("difference", "n"), (f"{_COVERED} interval", "n")),
    *(("p", "n"), ("p, corrected", "n"), (f"at {LEVEL}", "")),
    *(("queries better", "n"), ("equal", "n"), ("worse", "n")),
)


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _published(evaluations: Sequence[Evaluation]) -> Section:
    title = "Published scores of the same tasks"
    rows = next((rows for one in evaluations if (rows := published_scores(one.summary))), {})
    if not rows:
        note = (
            "None of the tasks above is one of the paper's with its test split and all its queries, so there are no "
            "published scores to compare with."
        )
        return Section(title, notes=[note])
    tasks = list(next(iter(rows.values())))
    lines = [
        Line([Cell(model), *(Cell(f"{scores[task]:.2f}", value=scores[task]) for task in tasks)])
        for model, scores in rows.items()
    ]
    here = [
        one
        for one in evaluations
        if all(task in one.tasks for task in tasks) and one.manifest.get("limit") is None
    ]
    for one in here:
        cells = [_score(one.tasks[task]) for task in tasks]
        lines.append(Line([Cell(f"{one.model} (measured here)"), *cells], "ours"))
    figure = Figure(
        "As the paper states them",
        where="; ".join(
            ["arXiv 2604.10937, main table, not measured here", *([f"ours {_where(here)}"] if here else [])]
        ),
        tables=[Table([("model", ""), *((task, "n") for task in tasks)], lines)],
    )
    return Section(title, figures=[figure])
