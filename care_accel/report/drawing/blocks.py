"""What a page is made of, and how numbers are written in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from care_accel.report.results.benchmarks import Machine, Run

MISSING = "–"


@dataclass(frozen=True)
class Cell:
    """A table's cell: a text, the exact number behind it, a line of small print, or a bar."""

    text: str = ""
    value: float | None = None
    small: str = ""
    drawn: Markup | None = None
    kind: str = ""


@dataclass(frozen=True)
class Line:
    """A table's row; its first cell is its heading."""

    cells: Sequence[Cell]
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table; columns of kind ``n`` hold numbers, ``bar`` bars, ``note`` longer texts. A long one may be folded away."""

    columns: Sequence[tuple[str, str]]
    lines: Sequence[Line]
    folded: str = ""


@dataclass(frozen=True)
class Figure:
    """A plot with its table, or a table of bars; ``where`` says what was measured on which hardware."""

    title: str
    where: str = ""
    plot: Markup | None = None
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()

    @property
    def short(self) -> bool:
        """Whether it goes on one printed page: a plot, or tables of few lines."""
        return self.plot is not None or sum(len(table.lines) for table in self.tables) <= 16


@dataclass(frozen=True)
class Section:
    """Figures that answer one question; ``notes`` say what is missing."""

    title: str
    lead: str = ""
    figures: Sequence[Figure] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Part:
    """What is measured on one machine, or what holds for all; ``anchor`` is its place in the page."""

    title: str
    anchor: str
    lead: str = ""
    sections: Sequence[Section] = field(default_factory=tuple)


def significant(value: float) -> str:
    """Write a number with three significant digits, or all before the point."""
    if value == 0:
        return "0"
    # Rounded first: 9.996 is written as 10.0.
    rounded = float(f"{value:.3g}")
    digits = 2 - math.floor(math.log10(abs(rounded)))
    return f"{value:,.{max(digits, 0)}f}" if digits < 7 else f"{value:.3g}"


def plain(value: float, digits: int) -> str:
    """Write a number with some digits behind the point, and a minus that is as wide as a plus."""
    return f"{value:,.{digits}f}".replace("-", "\u2212")


def signed(value: float, digits: int) -> str:
    """Write a difference, with its sign."""
    return f"{value:+,.{digits}f}".replace("-", "\u2212")


def number(value: float | None, *, scale: float = 1, small: str = "", kind: str = "") -> Cell:
    """Return a cell with a number in three significant digits; its exact value goes with it."""
    if value is None:
        return Cell(MISSING, kind=kind)
    return Cell(significant(value * scale), value=value, small=small, kind=kind)


def counted(count: int, what: str) -> str:
    """Write how many there are of something."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def share(value: float | None, digits: int = 0) -> Cell:
    """Return a cell with a fraction of 1 in percent."""
    return Cell(MISSING) if value is None else Cell(f"{100 * value:.{digits}f} %", value=value)


def spread(ratios: Sequence[float]) -> str:
    """Write how far the ratios of blocks lie apart, as small print."""
    return f"{significant(min(ratios))} to {significant(max(ratios))}" if len(ratios) > 1 else ""


def megabytes(value: float | None) -> Cell:
    """Return a cell with bytes in millions."""
    return number(value, scale=1e-6)


def where(machine: Machine, run: Run) -> str:
    """Say what measured: the hardware, threads, sizes, revision and day of a run."""
    return " · ".join([hardware(machine), *of_run(run)])


def hardware(machine: Machine) -> str:
    """Say which machine it is, as people name it."""
    facts = machine.facts
    cores = facts.get("cores")
    named = str(facts.get("processor") or machine.name)
    return ", ".join(
        [named, *([f"{cores} cores"] if cores else []), *([str(facts["gpu"])] if facts.get("gpu") else [])]
    )


def of_run(run: Run) -> list[str]:
    """Say what a run was: threads, sizes, revision, day."""
    changed = " with changes" if run.changed else ""
    threads = [counted(run.threads, "thread")] if run.threads else []
    return [*threads, f"size {run.size}", f"revision {run.revision}{changed}", run.started[:10]]
