"""Prints a table of scores, and the paper's scores on the same tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

_METRIC_NAMES = {"ndcg_at_10": "nDCG@10", "map_at_1000": "MAP", "pearson": "Pearson", "spearman": "Spearman"}

# Published scores in percent (arXiv 2604.10937, main table), in the order of _PUBLISHED_TASKS.
_PUBLISHED_TASKS = (
    ("CMedQAv1-reranking", 1000),
    ("CMedQAv2-reranking", 1000),
    ("CMedTEB-Retrieval", 734),
    ("CMedTEB-Reranking", 1128),
    ("CMedTEB-STS", 5000),
)
_PUBLISHED = {
    "bge-small-zh-v1.5": (80.21, 81.69, 44.33, 62.30, 70.50),
    "bge-base-zh-v1.5": (83.37, 83.31, 49.16, 66.73, 76.24),
    "bge-large-zh-v1.5": (83.23, 85.15, 50.32, 67.55, 78.95),
    "bge-m3": (82.98, 83.32, 51.35, 66.90, 78.34),
    "Conan-v1": (89.89, 88.77, 52.75, 69.31, 81.49),
    "stella-base-zh-v3": (87.16, 88.28, 53.31, 69.56, 80.52),
    "gte-multilingual-base": (86.21, 86.37, 53.37, 69.38, 82.36),
    "gte-base-zh": (85.31, 86.44, 52.62, 69.35, 79.73),
    "gte-large-zh": (85.44, 86.97, 52.93, 69.97, 81.48),
    "gte-Qwen2-1.5B": (87.68, 87.15, 55.39, 72.35, 85.50),
    "Qwen3-Embedding-0.6B": (85.58, 86.09, 54.42, 70.94, 80.42),
    "CARE-0.3B-4B": (86.04, 87.31, 55.91, 72.84, 88.53),
    "CARE-0.3B-8B": (88.34, 88.86, 56.75, 73.67, 87.07),
}


def metric_name(metric: str) -> str:
    """Return the display name of an mteb metric: ``nDCG@10`` for ``ndcg_at_10``."""
    return _METRIC_NAMES.get(metric, metric)


def published_scores(summary: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the paper's scores, in percent by model and task, for the tasks of a summary that match the paper's.

    A task matches if name, test split and number of queries or pairs are those of the paper, without a limit.

    Parameters
    ----------
    summary : dict
        As returned by `care_accel.eval.evaluate`.
    """
    same: dict[str, int] = {}
    if summary["manifest"]["limit"] is not None:
        return {}
    for position, (name, size) in enumerate(_PUBLISHED_TASKS):
        entry = summary["tasks"].get(name)
        if entry and entry["size"] == size and entry["split"] == "test":
            same[name] = position
    if not same:
        return {}
    return {model: {name: row[i] for name, i in same.items()} for model, row in _PUBLISHED.items()}


def print_report(summaries: Sequence[dict[str, Any]], console: Console | None = None) -> None:
    """Print one row per task and one column per model, in percent.

    The average is printed for models that ran every task of the table; averages over fewer tasks are not comparable.

    Parameters
    ----------
    summaries : sequence of dict
        As returned by `care_accel.eval.evaluate`.
    console : rich.console.Console, optional
        Standard output by default.
    """
    entries = {name: entry for summary in summaries for name, entry in summary["tasks"].items()}
    names = [s["model"] for s in summaries]
    # Wide enough for every column: rich's default is 80 if the output is not a terminal.
    width = 60 + sum(max(len(name), 8) + 3 for name in names)
    console = console or Console(width=None if Console().is_terminal else width)
    table = Table(title="scores in percent", title_justify="left")
    for heading in ("task", "metric", "size"):
        table.add_column(heading, justify="right" if heading == "size" else "left", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for name, entry in entries.items():
        table.add_row(
            name,
            metric_name(entry["main_metric"]),
            str(entry["size"]),
            *(_percent(s["tasks"].get(name)) for s in summaries),
        )
    table.add_section()
    complete = [s["average"] if len(s["tasks"]) == len(entries) else None for s in summaries]
    table.add_row("average", "", "", *("-" if a is None else f"{100 * a:.2f}" for a in complete))
    console.print(table)
    for note in dict.fromkeys(f"{s['task']}: {s['reason']}" for m in summaries for s in m["skipped"]):
        console.print(f"not run: {note}", highlight=False)
    if summaries:
        _print_published(published_scores(summaries[0]), console)


def _print_published(rows: dict[str, dict[str, float]], console: Console) -> None:
    if not rows:
        return
    tasks = list(next(iter(rows.values())))
    table = Table(title="published scores on the same tasks (arXiv 2604.10937)", title_justify="left")
    for heading in ("model", *tasks):
        table.add_column(heading, justify="left" if heading == "model" else "right", no_wrap=True)
    for model, scores in rows.items():
        table.add_row(model, *(f"{scores[name]:.2f}" for name in tasks))
    console.print(table)


def _percent(entry: dict[str, Any] | None) -> str:
    return "-" if entry is None else f"{100 * entry['main_score']:.2f}"
