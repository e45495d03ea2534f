"""Command line: ``care-accel report``."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the report to a parser."""
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="folder of evaluation results; default: %(default)s",
    )
    parser.add_argument(
        "--bench",
        type=Path,
        default=Path("bench/results"),
        metavar="DIR",
        help="folder of benchmark results, one file per machine; default: %(default)s",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("report.html"),
        metavar="FILE",
        help="HTML file; default: %(default)s",
    )
    parser.add_argument(
        "--machine", metavar="NAME", help="only benchmarks of this machine; default: all machines"
    )
    parser.add_argument(
        "--index",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="a saved approximate index, or a collection: show how it was chosen; may be repeated",
    )


def run(options: argparse.Namespace) -> None:
    """Write the report and print its path."""
    from care_accel.report.page import write_report

    write_report(
        options.output,
        results=options.results,
        bench=options.bench,
        machine=options.machine,
        indexes=options.index,
    )
    print(f"written to {options.output}")
