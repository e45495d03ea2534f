"""Building blocks of the page, and number formatting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from care_accel.report.results.benchmarks import Machine, Run

MISSING = "–"


@dataclass(frozen=True)
class Cell:
    """Table cell: a text, its exact value, small print, or a bar."""

    text: str = ""
    value: float | None = None
    small: str = ""
    drawn: Markup | None = None
    kind: str = ""


@dataclass(frozen=True)
class Line:
    """Table row; the first cell is its header."""

    cells: Sequence[Cell]
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """Table; columns of kind ``n`` have numbers, ``bar`` bars, ``note`` longer texts. ``folded`` is the title if collapsed."""

    columns: Sequence[tuple[str, str]]
    lines: Sequence[Line]
    folded: str = ""


@dataclass(frozen=True)
class Figure:
    """A plot with its table, or a table of bars; ``where`` is the provenance."""

    title: str
    where: str = ""
    plot: Markup | None = None
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()

    @property
    def short(self) -> bool:
        """Whether it fits on one printed page."""
        return self.plot is not None or sum(len(table.lines) for table in self.tables) <= 16


@dataclass(frozen=True)
class Section:
    """Figures on one question; ``notes`` list missing data."""

    title: str
    lead: str = ""
    figures: Sequence[Figure] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Part:
    """Sections on one machine, or on all; ``anchor`` is its HTML id."""

    title: str
    anchor: str
    lead: str = ""
    sections: Sequence[Section] = field(default_factory=tuple)


def significant(value: float) -> str:
    """Format a number with three significant digits, or all digits of its integer part."""
    if value == 0:
        return "0"
    # Rounded first, so that 9.996 gives 10.0.
    rounded = float(f"{value:.3g}")
    digits = 2 - math.floor(math.log10(abs(rounded)))
    return f"{value:,.{max(digits, 0)}f}" if digits < 7 else f"{value:.3g}"


def plain(value: float, digits: int) -> str:
    """Format a number with fixed decimals and a typographic minus."""
    return f"{value:,.{digits}f}".replace("-", "\u2212")


def signed(value: float, digits: int) -> str:
    """Format a difference with its sign."""
    return f"{value:+,.{digits}f}".replace("-", "\u2212")


def number(value: float | None, *, scale: float = 1, small: str = "", kind: str = "") -> Cell:
    """Return a cell with a number in three significant digits and its exact value."""
    if value is None:
        return Cell(MISSING, kind=kind)
    return Cell(significant(value * scale), value=value, small=small, kind=kind)


def pluralise(count: int, what: str) -> str:
    """Format a count with its noun."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def share(value: float | None, digits: int = 0) -> Cell:
    """Return a cell with a fraction as percent."""
    return Cell(MISSING) if value is None else Cell(f"{100 * value:.{digits}f} %", value=value)


def spread(ratios: Sequence[float]) -> str:
    """Format the range of block ratios, as small print."""
    return f"{significant(min(ratios))} to {significant(max(ratios))}" if len(ratios) > 1 else ""


def megabytes(value: float | None) -> Cell:
    """Return a cell with bytes as MB (10^6)."""
    return number(value, scale=1e-6)


def where(machine: Machine, run: Run) -> str:
    """Format the provenance of a run: hardware, threads, size, revision and date."""
    return " · ".join([hardware(machine), *run_facts(run)])


def hardware(machine: Machine) -> str:
    """Format the hardware of a machine."""
    facts = machine.facts
    cores = facts.get("cores")
    named = str(facts.get("processor") or machine.name)
    return ", ".join(
        [named, *([f"{cores} cores"] if cores else []), *([str(facts["gpu"])] if facts.get("gpu") else [])]
    )


def run_facts(run: Run) -> list[str]:
    """Return threads, size, revision and date of a run."""
    changed = " with changes" if run.changed else ""
    threads = [pluralise(run.threads, "thread")] if run.threads else []
    return [*threads, f"size {run.size}", f"revision {run.revision}{changed}", run.started[:10]]
