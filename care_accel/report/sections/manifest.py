"""Provenance: machines, hardware limits, versions, revisions, model and data hashes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from care_accel.report.drawing.blocks import (
    MISSING,
    Cell,
    Figure,
    Line,
    Part,
    Section,
    Table,
    number,
    run_facts,
)
from care_accel.report.results.benchmarks import Machine, Run
from care_accel.report.results.scores import Evaluation

_ROLES = ("query", "document")


def manifest(machines: Sequence[Machine], evaluations: Sequence[Evaluation]) -> Part:
    """Return the part on reproducibility."""
    sections = [Section(f"Machine {one.name}", figures=_machine(one)) for one in machines]
    if evaluations:
        sections.append(Section("Models", figures=_models(evaluations)))
    return Part("Manifest", "manifest", "Provenance of all results, for reproduction.", sections)


def _machine(machine: Machine) -> list[Figure]:
    facts = [
        Line([Cell(name), Cell(_fact(value))]) for name, value in machine.facts.items() if value is not None
    ]
    shown = list({group.run.id: group.run for group in machine.groups()}.values())
    figures = [Figure("The machine", tables=[Table([("", ""), ("", "wide")], facts)])]
    figures += [_run(run) for run in sorted(shown, key=lambda run: run.started, reverse=True)]
    return figures


def _run(run: Run) -> Figure:
    limits = [
        Line(
            [
                Cell(name),
                *(number(limit.get(key), scale=1e-9) for key in ("median", "low", "high")),
                Cell(f"10\u2079 {limit.get('unit', '')}"),
            ]
        )
        for name, limit in run.limits.items()
    ]
    versions = [Line([Cell(name), Cell(str(version))]) for name, version in run.versions.items()]
    columns = [
        ("limit, measured in the same run", ""),
        ("median", "n"),
        ("lowest", "n"),
        ("highest", "n"),
        ("unit", ""),
    ]
    tables = [Table(columns, limits)] if limits else []
    tables += [Table([("package", ""), ("version", "")], versions, folded="Versions")] if versions else []
    facts = [*run_facts(run), *([f"data: {run.data}"] if run.data else []), f"{len(run.rows)} rows"]
    return Figure(f"Run {run.id}", where=" · ".join(facts), tables=tables)


def _models(evaluations: Sequence[Evaluation]) -> list[Figure]:
    lines: list[Line] = []
    data: dict[tuple[str, str], list[str]] = {}
    for one in evaluations:
        versions = one.manifest.get("versions")
        text = ", ".join(f"{k} {v}" for k, v in versions.items() if v) if isinstance(versions, dict) else ""
        cells = [Cell(one.model)]
        for role in _ROLES:
            provenance = one.manifest.get(role)
            revision = provenance.get("revision") if isinstance(provenance, dict) else None
            cells.append(Cell(MISSING if revision is None else str(revision), kind="hash"))
        lines.append(Line([*cells, Cell(text)]))
        if isinstance(revisions := one.manifest.get("data"), dict):
            for task, revision in revisions.items():
                data.setdefault((task, str(revision)), []).append(one.model)
    columns = [
        ("model", ""),
        *((f"hash of the {role} encoder", "note") for role in _ROLES),
        ("versions", "wide"),
    ]
    figures = [Figure("Models that were evaluated", tables=[Table(columns, lines)])]
    if data:
        of_data = [
            Line([Cell(task), Cell(revision, kind="hash"), Cell(", ".join(models))])
            for (task, revision), models in data.items()
        ]
        columns = [("task", ""), ("hash of the data", "wide"), ("models", "wide")]
        figures.append(Figure("Data", tables=[Table(columns, of_data)]))
    return figures


def _fact(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_fact(v)}" for k, v in value.items())
    if isinstance(value, list):
        return " ".join(map(_fact, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
