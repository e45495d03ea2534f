"""Command line: ``care-accel curate <step> CONFIG.yaml``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_accel.errors import CareError

if TYPE_CHECKING:
    from care_accel.curation.steps import Summary

# Step: its module, its help text.
_STEPS = {
    "candidates": ("labels.candidates", "pool candidate documents for every query"),
    "judge": ("labels.judging", "grade every candidate with every judge; resumes an interrupted run"),
    "vote": ("labels.vote", "aggregate the judges' grades into labels"),
    "agreement": (
        "labels.agreement",
        "inter-annotator agreement of the judges, with confidence intervals and a plot",
    ),
    "sample": (
        "labels.sample",
        "draw a stratified sample for experts to grade, and compare their grades with the vote",
    ),
    "false-negatives": (
        "labels.false_negatives",
        "find unlabelled positives (false negatives) of a data set, and write extended qrels next to its own",
    ),
    "sts": ("sts.pairs", "generate STS sentence pairs from a table of synonyms"),
    "train-data": (
        "training_data.triplets",
        "clean, deduplicate and diversify texts, mine hard negatives, and write training data",
    ),
    "leak-check": (
        "texts.leaks",
        "contamination check: find evaluation texts in training data; exit code 1 if there are any",
    ),
    "purge": ("purge", "delete the judges' raw answers, or all judgements"),
}
_DRY_RUN: tuple[str, dict[str, Any]] = (
    "--dry-run",
    {"action": "store_true", "help": "send no requests; print what is pending and its estimated cost"},
)
_FLAGS: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "judge": (
        _DRY_RUN,
        ("--again", {"action": "store_true", "help": "also retry pairs whose answer could not be parsed"}),
    ),
    "sample": (
        (
            "--read",
            {
                "nargs": "+",
                "type": Path,
                "metavar": "FILE",
                "default": (),
                "help": "tables completed by experts",
            },
        ),
        ("--overwrite", {"action": "store_true", "help": "replace an existing sample"}),
    ),
    "train-data": (_DRY_RUN,),
    "sts": (_DRY_RUN,),
    "purge": (
        (
            "--all",
            {
                "action": "store_true",
                "help": "also delete grades, costs, the sample with its texts, STS attempts and cached vectors",
            },
        ),
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the steps and their options to a parser."""
    steps = parser.add_subparsers(dest="step", required=True, metavar="step")
    for name, (_, text) in _STEPS.items():
        step = steps.add_parser(name, help=text, description=text)
        step.add_argument("config", type=Path, help="a YAML file; see docs/curation.md")
        for flag, options in _FLAGS.get(name, ()):
            step.add_argument(flag, **options)


def run(options: argparse.Namespace) -> None:
    """Run a step and print its summary; exit with code 1 if it failed in part."""
    from care_accel.curation.loading import load_config
    from care_accel.progress import progress_bar

    config = load_config(options.config)
    flags = [flag.lstrip("-").replace("-", "_") for flag, _ in _FLAGS.get(options.step, ())]
    try:
        step: Callable[..., Summary] = import_module(f"care_accel.curation.{_STEPS[options.step][0]}").run
        summary = step(config, progress_bar, **{name: getattr(options, name) for name in flags})
    except ImportError as missing:
        raise CareError(f"{missing.name} is not installed: pip install 'care-accel[curate]'") from None
    print_summary(summary)
    if summary.failed:
        raise SystemExit(1)


def print_summary(summary: Summary) -> None:
    """Print facts, table and files to standard output, warnings to standard error."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # rich wraps tables at 80 characters if the output is not a terminal.
    console = Console(width=None if Console().is_terminal else 200)
    for name, value in summary.facts.items():
        console.print(f"{name}: {value}", highlight=False, markup=False, soft_wrap=True)
    if summary.table:
        table = Table()
        headings, *rows = summary.table
        numeric = [all(_is_number(row[i]) for row in rows) for i in range(len(headings))]
        for heading, right in zip(headings, numeric, strict=True):
            table.add_column(heading, justify="right" if right else "left")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
    for file in summary.files:
        console.print(f"wrote {file}", highlight=False, markup=False, soft_wrap=True)
    errors = Console(stderr=True)
    for warning in summary.warnings:
        errors.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)


def _is_number(cell: str) -> bool:
    return cell[:1].isdigit() or cell[:1] == "-"
