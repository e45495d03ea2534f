"""Command line ``care-accel compare``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from care_accel.errors import CareError
from care_accel.eval.statistics.resampling import LEVEL

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from care_accel.eval.statistics.compare import Comparison, TaskComparison
    from care_accel.eval.statistics.movement import Moved

_MAX_TEXT = 60  # characters shown of a query
_FILE_WIDTH = 200  # columns if the output is not a terminal; rich's default is 80

Texts = dict[str, dict[str, str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    for name, text in (
        ("a", "results folder of care-accel eval, such as results/care-mini"),
        ("b", "results folder to compare it with"),
    ):
        parser.add_argument(f"run_{name}", type=Path, metavar=f"RUN_{name.upper()}", help=text)
    parser.add_argument(
        "--level",
        type=_level,
        default=LEVEL,
        help="significance level over all tasks (Holm); confidence intervals cover 1 - level; default: %(default)s",
    )
    parser.add_argument(
        "--top",
        type=_count,
        default=10,
        metavar="N",
        help="queries listed per task with the largest gains and losses; default: %(default)s",
    )
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="data folder of the runs, to show the texts of queries"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the comparison as JSON, with ids but no texts"
    )


def run(options: argparse.Namespace) -> None:
    """Compare two runs and print the tables."""
    from care_accel.eval.statistics.compare import compare, query_texts, read_run
    from care_accel.files import write_json

    if options.json is not None:
        if options.json.is_dir():
            raise CareError(f"--json {options.json}: is a folder; give a file")
        if not options.json.absolute().parent.is_dir():
            raise CareError(f"--json {options.json}: {options.json.parent} is not a folder; create it first")
    a, b = read_run(options.run_a), read_run(options.run_b)
    texts = {} if options.data_dir is None else query_texts(options.data_dir, a)
    comparison = compare(a, b, level=options.level, top=options.top)
    if options.json is not None:
        write_json(options.json, comparison.as_dict(), private=True)  # ids may identify patients
    print_comparison(comparison, texts)


def print_comparison(
    comparison: Comparison, texts: Texts | None = None, console: Console | None = None
) -> None:
    """Print one row per task, then a table per task of the queries that changed most.

    Parameters
    ----------
    comparison : Comparison
    texts : dict, optional
        Texts of queries by task and id; without it only ids are printed.
    console : rich.console.Console, optional
        Standard output by default.
    """
    from rich.console import Console

    console = console or Console(width=None if Console().is_terminal else _FILE_WIDTH)
    for name, one in (("A", comparison.a), ("B", comparison.b)):
        console.print(f"{name}: {one.model} ({one.folder})", highlight=False, markup=False)
    console.print(_overview(comparison, console))
    console.print(
        f"better: the significantly better run at level {comparison.level:g} over all tasks; - if not significant",
        highlight=False,
    )
    for excluded in comparison.left_out:
        console.print(f"not compared: {excluded.task}: {excluded.reason}", highlight=False, markup=False)
    for task in comparison.tasks:
        if task.gained or task.lost:
            # Not as the table's title, which rich would wrap to the width of the table.
            console.print(f"{task.difference.task}: largest gains and losses", highlight=False, markup=False)
            console.print(_changes(task, (texts or {}).get(task.difference.task, {})))
        if task.moved:
            title = f"{task.difference.task}: relevant documents that fell in the lost queries"
            console.print(title, highlight=False, markup=False)
            console.print(_movement(task.moved))
    if any(task.lost and task.moved is None for task in comparison.tasks):
        console.print("care-accel eval --save-run, for both runs, shows here which documents moved")


def _overview(comparison: Comparison, console: Console) -> Table:
    """Return one row per task; if the columns do not fit, two share a column so that no number is truncated."""
    from rich.measure import Measurement
    from rich.table import Table

    rows = [_cells(task) for task in comparison.tasks]
    interval = f"{100 * (1 - comparison.level):g} % interval"
    headings = ("task", "metric", "A", "B", "B - A", interval, "p (Holm)", "better", "n", "queries +/=/-")
    tables = []
    for together in (1, 2):
        table = Table(title="scores in percent", title_justify="left", show_lines=together > 1)
        for first in range(0, len(headings), together):
            left = headings[first] in ("task", "metric", "better")
            names = "\n".join(headings[first : first + together])
            table.add_column(names, justify="left" if left else "right", no_wrap=True)
        for row in rows:
            table.add_row(*("\n".join(row[i : i + together]) for i in range(0, len(row), together)))
        tables.append(table)
    wide, narrow = tables
    needed = Measurement.get(console, console.options.update_width(10_000), wide).maximum
    return wide if needed <= console.width else narrow


def _cells(task: TaskComparison) -> list[str]:
    from rich.markup import escape

    from care_accel.eval.report import metric_name

    one = task.difference
    low, high = (f"{100 * bound:+.2f}" for bound in one.interval)
    return [
        escape(one.task),
        metric_name(one.metric),
        f"{100 * one.a:.2f}",
        f"{100 * one.b:.2f}",
        f"{100 * one.difference:+.2f}",
        f"{low} to {high}",
        f"{one.adjusted:.4f}",
        "-" if not one.significant else "B" if one.difference > 0 else "A",
        str(one.n),
        "" if task.better is None else f"{task.better}/{task.equal}/{task.worse}",
    ]


def _changes(task: TaskComparison, texts: dict[str, str]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for heading in ("query", "A", "B", "B - A", *(["text"] if texts else [])):
        left = heading in ("query", "text")
        table.add_column(heading, justify="left" if left else "right", no_wrap=heading != "text")
    for queries in (task.gained, task.lost):
        for one in queries:
            numbers = f"{100 * one.a:.1f}", f"{100 * one.b:.1f}", f"{100 * (one.b - one.a):+.1f}"
            # As Text: ids and texts are not markup.
            text = [Text(_printable(texts.get(one.query, "")))] if texts else []
            table.add_row(Text(_printable(one.query)), *numbers, *text)
        table.add_section()
    return table


def _movement(moved: list[Moved]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for heading in ("query", "document", "grade", "rank in A", "rank in B", "now above it"):
        left = heading in ("query", "document", "now above it")
        table.add_column(heading, justify="left" if left else "right", no_wrap=left)
    last = None
    for one in moved:
        if last not in (None, one.query):
            table.add_section()
        # As Text: ids are not markup.
        query, document, above = (
            Text(_printable(text))
            for text in ("" if one.query == last else one.query, one.document, ", ".join(one.above))
        )
        ranks = ("-" if rank is None else str(rank) for rank in (one.a, one.b))
        table.add_row(query, document, str(one.grade), *ranks, above)
        last = one.query
    return table


def _printable(text: str) -> str:
    """Return a text on one line, truncated and without control characters."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= _MAX_TEXT else f"{line[:_MAX_TEXT]}…"


def _level(text: str) -> float:
    try:
        level = float(text)
    except ValueError:
        level = 0.0
    if not 0 < level < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return level


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a non-negative integer")
    return int(text)
