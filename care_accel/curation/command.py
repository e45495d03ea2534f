"""The command line of the curation: ``care-accel curate <step> CONFIG.yaml``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_accel.errors import CareError

if TYPE_CHECKING:
    from care_accel.curation.steps import Summary

# Step, its module, what it does.
_STEPS = {
    "candidates": ("labels.candidates", "pool the documents of every query that are to be judged"),
    "judge": ("labels.judging", "ask every judge about every candidate; goes on where it was stopped"),
    "vote": ("labels.vote", "make labels of the judges' grades"),
    "agreement": ("labels.agreement", "tell how far the judges agree, with intervals and a plot"),
    "sample": ("labels.sample", "write pairs for experts to grade, and compare their grades with the vote"),
    "false-negatives": (
        "labels.false_negatives",
        "count positives that a set's labels lack, and add them in a file beside",
    ),
    "sts": ("sts.pairs", "make sentence pairs out of a table of synonyms"),
    "train-data": (
        "training_data.triplets",
        "clean, de-duplicate and diversify texts, and make training data of them",
    ),
    "leak-check": ("texts.leaks", "look for evaluation texts in training data; exit code 1 if there are any"),
    "purge": ("purge", "delete what judges wrote, or all judgements"),
}
_DRY_RUN: tuple[str, dict[str, Any]] = (
    "--dry-run",
    {"action": "store_true", "help": "ask nobody; tell what is left and what it would cost"},
)
_FLAGS: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "judge": (
        _DRY_RUN,
        ("--again", {"action": "store_true", "help": "ask again where an answer could not be read"}),
    ),
    "sample": (
        (
            "--read",
            {
                "nargs": "+",
                "type": Path,
                "metavar": "FILE",
                "default": (),
                "help": "tables that experts filled in",
            },
        ),
        ("--overwrite", {"action": "store_true", "help": "draw anew although a sample is there"}),
    ),
    "train-data": (_DRY_RUN,),
    "sts": (_DRY_RUN,),
    "purge": (
        (
            "--all",
            {"action": "store_true", "help": "delete grades and costs as well, and the texts of the sample"},
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
    """Run a step and print its summary; ends with exit code 1 where the step failed in part."""
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
    """Print facts, table, files and warnings; these to standard error."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Where output is a file, rich would fold tables to 80 characters.
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
