"""Renders the report as one self-contained HTML file, without scripts or external resources."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from care_accel.errors import CareError, not_written
from care_accel.folders import make_folder
from care_accel.report.drawing.blocks import (
    Cell,
    Figure,
    Line,
    Part,
    Section,
    Table,
    hardware,
    pluralise,
    run_facts,
)
from care_accel.report.results.benchmarks import Group, Machine, read_machines
from care_accel.report.results.scores import Evaluation, read_evaluations
from care_accel.report.sections.accuracy import MISSING_SCORES, accuracy
from care_accel.report.sections.approximate import ApproximateChoice, approximate_indexes, read_choices
from care_accel.report.sections.manifest import manifest
from care_accel.report.sections.peers import peers
from care_accel.report.sections.timing import scaling, time_by_part
from care_accel.report.sections.tradeoff import accuracy_against_latency, asymmetric_against_symmetric
from care_accel.version import __version__

_TEMPLATE = Path(__file__).with_name("template")
# Suites of `pytest bench`; the GPU ones are expected only on machines with a GPU.
_SUITES = ("pooling", "scan", "approximate", "scaling", "encoder", "retriever", "tradeoff", "server")
_GPU_SUITES = ("cuda scan", "gpu encoder", "gpu retriever")


def write_report(
    output: str | Path,
    *,
    results: str | Path = "results",
    bench: str | Path = "bench/results",
    machine: str | None = None,
    indexes: Sequence[str | Path] = (),
) -> None:
    """Write the report to an HTML file.

    Parameters
    ----------
    output : str or Path
        The HTML file, written atomically.
    results : str or Path
        Evaluation results: one folder per model with ``summary.json``.
    bench : str or Path
        Benchmark results: one JSON file per machine.
    machine : str, optional
        Only benchmarks of this machine.
    indexes : sequence of str or Path
        Folders of saved approximate indexes, or of collections: how each was chosen.

    Raises
    ------
    CareError
        There are no results, a file is invalid, or ``output`` cannot be written.
    """
    output, results, bench = Path(output), Path(results), Path(bench)
    evaluations = read_evaluations(results)
    machines = read_machines(bench, machine)
    choices = read_choices([Path(folder) for folder in indexes])
    if not evaluations and not machines and not choices:
        raise CareError(
            f"nothing to report: no */summary.json in {results}/ and no runs in {bench}/; run care-accel eval or "
            "pytest bench --benchmark-only, or set the folders by --results and --bench"
        )
    _write(output, render(evaluations, machines, results, choices))


def render(
    evaluations: Sequence[Evaluation],
    machines: Sequence[Machine],
    results: Path,
    choices: Sequence[ApproximateChoice] = (),
) -> str:
    """Render the report."""
    try:
        import jinja2
    except ImportError:
        raise CareError("jinja2 is not installed: pip install 'care-accel[eval]'") from None
    parts = [accuracy(evaluations, results)]
    parts += [_machine(one, f"machine-{i}") for i, one in enumerate(machines, start=1)]
    if not machines:
        note = "No benchmark has been run: pytest bench --benchmark-only"
        parts.append(Part("Speed", "machine-1", sections=[Section("Measurements", notes=[note])]))
    if choices:
        parts.append(approximate_indexes(choices))
    parts.append(manifest(machines, evaluations))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    missing = [] if evaluations else [f"{MISSING_SCORES}."]
    return environment.get_template("page.html").render(
        parts=parts,
        facts=[*_overview(evaluations, machines), *missing],
        style=(_TEMPLATE / "style.css").read_text(encoding="utf-8"),
        version=__version__,
        day=f"{datetime.now(UTC):%Y-%m-%d}",
    )


def _overview(evaluations: Sequence[Evaluation], machines: Sequence[Machine]) -> list[str]:
    """Return one summary line per machine and for the models."""
    facts = []
    for one in machines:
        noisy = sum(row.noisy for group in one.groups() for row in group.rows)
        rows = sum(len(group.rows) for group in one.groups())
        facts.append(
            f"{hardware(one)}: latest run {', '.join(run_facts(one.latest))}; {rows} rows, {noisy} of them too noisy to quote."
        )
    if evaluations:
        tasks = {name for one in evaluations for name in one.tasks}
        facts.append(f"{pluralise(len(evaluations), 'model')} on {pluralise(len(tasks), 'task')}.")
    return facts


def _machine(machine: Machine, anchor: str) -> Part:
    groups = machine.groups()
    sections = [
        accuracy_against_latency(machine, groups),
        asymmetric_against_symmetric(machine, groups),
        time_by_part(machine, groups),
        scaling(machine, groups),
        *peers(machine, groups),
    ]
    notes = [f"{one.title}: {note}" for one in sections if not one.figures for note in one.notes]
    sections = [_suites_section(machine, groups, notes), *(one for one in sections if one.figures)]
    lead = "Measurements on this machine; each figure names its run."
    if machine.latest.size == "smoke":
        lead += " Only the smallest size (smoke) has been run: it checks that the benchmarks run, and its times prove nothing."
    return Part(hardware(machine), anchor, lead, sections)


def _suites_section(machine: Machine, groups: Sequence[Group], notes: Sequence[str]) -> Section:
    """Return a table of the suites that were run; notes list missing ones."""
    lines = []
    for suite in dict.fromkeys(group.suite for group in groups):
        some = [group for group in groups if group.suite == suite]
        rows = [row for group in some for row in group.rows]
        noisy = sum(row.noisy for row in rows)
        runs = {group.run.id: " · ".join(run_facts(group.run)) for group in some}
        lines.append(
            Line(
                [
                    Cell(suite),
                    Cell(str(len(some)), value=len(some)),
                    Cell(str(len(rows)), value=len(rows)),
                    Cell(str(noisy), value=noisy),
                    Cell("; ".join(runs.values())),
                ]
            )
        )
    columns = [("suite", ""), ("groups", "n"), ("rows", "n"), ("noisy", "n"), ("run", "wide")]
    wanted = (*_SUITES, *(_GPU_SUITES if machine.facts.get("gpu") else ()))
    had = {group.suite for group in groups}
    if missing := [suite for suite in wanted if suite not in had]:
        files = " ".join(f"bench/*/test_{suite.replace(' ', '_')}.py" for suite in missing)
        kinds = f"No benchmark of this kind has been run here: {', '.join(missing)}"
        notes = [f"{kinds}. pytest {files} --benchmark-only", *notes]
    lead = (
        "Rows are compared within a group; the size (smoke, default or full) sets data sizes and durations. Do not quote "
        "noisy rows."
    )
    figure = Figure("Suites", hardware(machine), tables=[Table(columns, lines)])
    return Section("What was measured", lead, [figure], notes)


def _write(file: Path, text: str) -> None:
    """Write atomically, by a temporary file and a rename."""
    make_folder(file.parent, "the folder of --output")
    if file.is_dir():
        raise CareError(f"--output {file}: is a folder; give a file")
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, file)
    except OSError as cause:
        raise not_written(f"--output {file}", cause) from None
    finally:
        with suppress(OSError):
            temporary.unlink()
