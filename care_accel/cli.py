"""Command line ``care-accel <verb>``; each verb calls a function of the package."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence

from care_accel.cluster import command as index_command
from care_accel.cluster.servers import command as gateway_command
from care_accel.cluster.shards import command as serve_command
from care_accel.collection.commands import deleting, managing, searching
from care_accel.curation import command as curate_command
from care_accel.errors import exit_code
from care_accel.eval import command as eval_command
from care_accel.eval import compare_command
from care_accel.report import command as report_command
from care_accel.serving import export_command
from care_accel.training import command as train_command
from care_accel.version import __version__

_VERBS = {
    "index": (
        index_command,
        "index documents into a collection; again, it goes on and takes what has changed",
    ),
    "search": (searching, "search a collection"),
    "delete": (deleting, "delete documents of a collection"),
    "collection": (managing, "describe, check or compact a collection"),
    "eval": (eval_command, "score a dual encoder on CMedTEB, a data folder or the embedded demo"),
    "compare": (compare_command, "test which differences between two evaluations are significant"),
    "export": (export_command, "export an encoder for a faster runtime, behind an accuracy gate"),
    "serve": (serve_command, "serve both encoders and search with NVIDIA Triton Inference Server"),
    "gateway": (gateway_command, "serve embeddings, search and a demo page over HTTP"),
    "report": (report_command, "write one HTML page with all evaluation and benchmark results"),
    "curate": (
        curate_command,
        "build a benchmark and training data: candidate pooling, LLM judges, votes, de-duplication",
    ),
    "train": (train_command, "train a dual encoder from a recipe"),
}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = argparse.ArgumentParser(prog="care-accel", description="Asymmetric Chinese medical retrieval.")
    parser.add_argument("--version", action="version", version=f"care-accel {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")
    for name, (command, text) in _VERBS.items():
        command.add_arguments(verbs.add_parser(name, help=text, description=text))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit code."""
    if isinstance(
        sys.stdout, io.TextIOWrapper
    ):  # a terminal that is not UTF-8 shows what it cannot write as \\u9ad8
        sys.stdout.reconfigure(errors="backslashreplace")

    def command() -> None:
        options = make_parser().parse_args(arguments)
        _VERBS[options.verb][0].run(options)

    return exit_code(command)
