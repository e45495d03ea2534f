"""All parts together in one HTML file that needs nothing else: no other host, no script."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from care_accel.errors import CareError
from care_accel.files import make_folder
from care_accel.report.drawing.blocks import (
    Cell,
    Figure,
    Line,
    Part,
    Section,
    Table,
    counted,
    hardware,
    of_run,
)
from care_accel.report.results.benchmarks import Group, Machine, read_machines
from care_accel.report.results.scores import Evaluation, read_evaluations
from care_accel.report.sections.accuracy import MISSING_SCORES, accuracy
from care_accel.report.sections.manifest import manifest
from care_accel.report.sections.peers import peers
from care_accel.report.sections.timing import scaling, time_by_part
from care_accel.report.sections.tradeoff import accuracy_against_latency, asymmetric_against_symmetric
from care_accel.version import __version__

_TEMPLATE = Path(__file__).with_name("template")
# What `pytest bench` has; those for a GPU are missed on a machine that has one.
_SUITES = ("pooling", "scan", "approximate", "scaling", "encoder", "retriever", "tradeoff", "server")
_GPU_SUITES = ("cuda scan", "gpu encoder", "gpu retriever")


def write_report(
    output: str | Path,
    *,
    results: str | Path = "results",
    bench: str | Path = "bench/results",
    machine: str | None = None,
) -> None:
    """Write everything that was measured to one HTML file.

    Parameters
    ----------
    output : str or Path
        The file; it appears whole or not at all.
    results : str or Path
        What the evaluation wrote: a folder a model with ``summary.json``.
    bench : str or Path
        What the benchmarks wrote: a JSON file a machine.
    machine : str, optional
        Only this machine's benchmarks.

    Raises
    ------
    CareError
        There is nothing to show, a file cannot be read, or ``output`` cannot be written.
    """
    output, results, bench = Path(output), Path(results), Path(bench)
    evaluations = read_evaluations(results)
    machines = read_machines(bench, machine)
    if not evaluations and not machines:
        raise CareError(
            f"nothing to report: no */summary.json in {results}/ and no runs in {bench}/; run care-accel eval or "
            "pytest bench --benchmark-only, or name the folders by --results and --bench"
        )
    _write(output, render(evaluations, machines, results))


def render(evaluations: Sequence[Evaluation], machines: Sequence[Machine], results: Path) -> str:
    """Return the page."""
    try:
        import jinja2
    except ImportError:
        raise CareError("jinja2 is not installed: pip install 'care-accel[eval]'") from None
    parts = [accuracy(evaluations, results)]
    parts += [_machine(one, f"machine-{i}") for i, one in enumerate(machines, start=1)]
    if not machines:
        note = "No benchmark has been run: pytest bench --benchmark-only"
        parts.append(Part("Speed", "machine-1", sections=[Section("Measurements", notes=[note])]))
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
    """Say in a line each what the page is of."""
    facts = []
    for one in machines:
        noisy = sum(row.noisy for group in one.groups() for row in group.rows)
        rows = sum(len(group.rows) for group in one.groups())
        facts.append(
            f"{hardware(one)}: latest run {', '.join(of_run(one.latest))}; {rows} rows, {noisy} of them too noisy to quote."
        )
    if evaluations:
        tasks = {name for one in evaluations for name in one.tasks}
        facts.append(f"{counted(len(evaluations), 'model')} on {counted(len(tasks), 'task')}.")
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
    sections = [_measured(machine, groups, notes), *(one for one in sections if one.figures)]
    lead = "Everything in this part was measured on this machine; each figure says by which run."
    if machine.latest.size == "smoke":
        lead += " Only the smallest size (smoke) has been run: it shows that the benchmarks run, and its times prove nothing."
    return Part(hardware(machine), anchor, lead, sections)


def _measured(machine: Machine, groups: Sequence[Group], notes: Sequence[str]) -> Section:
    """Return which suites were run, and when; and which were not."""
    lines = []
    for suite in dict.fromkeys(group.suite for group in groups):
        some = [group for group in groups if group.suite == suite]
        rows = [row for group in some for row in group.rows]
        noisy = sum(row.noisy for row in rows)
        runs = {group.run.id: " · ".join(of_run(group.run)) for group in some}
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
        files = " ".join(f"bench/test_{suite.replace(' ', '_')}.py" for suite in missing)
        kinds = f"No benchmark of this kind has been run here: {', '.join(missing)}"
        notes = [f"{kinds}. pytest {files} --benchmark-only", *notes]
    lead = (
        "A suite compares rows of the same group; its size (smoke, default or full) says how many and how long. Noisy rows "
        "are not to be quoted."
    )
    figure = Figure("Suites", hardware(machine), tables=[Table(columns, lines)])
    return Section("What was measured", lead, [figure], notes)


def _write(file: Path, text: str) -> None:
    """Write under a temporary name and rename, so that nobody ever reads half of it."""
    make_folder(file.parent, "the folder of --output")
    if file.is_dir():
        raise CareError(f"--output {file}: is a folder; name a file")
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, file)
    except OSError as cause:
        raise CareError(f"--output {file}: cannot be written: {cause.strerror}") from None
    finally:
        with suppress(OSError):
            temporary.unlink()
