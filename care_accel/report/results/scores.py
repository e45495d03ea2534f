"""Reads evaluation summaries, one per model, and aligns their tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from care_accel.errors import CareError
from care_accel.files import read_json

SUMMARY = "summary.json"
# Suffixes of baselines, which are listed last.
_BASELINES = ("-hybrid", "-document-twin", "-query-twin", "-twin", "bm25", "-untrained")
_FIX = "run care-accel eval again, or remove the folder"


@dataclass(frozen=True)
class Evaluation:
    """Evaluation results of one model."""

    folder: Path
    summary: dict[str, Any]

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self.summary["model"])

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        """By name: metric, score from 0 to 1, confidence interval, split, size."""
        return self.summary["tasks"]

    @property
    def manifest(self) -> dict[str, Any]:
        """Provenance, for reproducing the scores."""
        return self.summary["manifest"]


@dataclass(frozen=True)
class Task:
    """A task with metric, split and size; scores are comparable if all are equal."""

    name: str
    metric: str
    split: str
    size: int


def read_evaluations(folder: Path) -> list[Evaluation]:
    """Read the evaluations of all models in a folder, baselines last.

    Raises
    ------
    CareError
        A summary is not JSON or is invalid; the file is named.
    """
    found = [Evaluation(file.parent, _checked(file)) for file in sorted(folder.glob(f"*/{SUMMARY}"))]
    return sorted((one for one in found if one.tasks), key=lambda one: (_rank(one.model), one.model))


def tasks_of(evaluations: Sequence[Evaluation]) -> list[Task]:
    """Return all tasks by type and name; a task run with different splits or sizes is listed once for each."""
    tasks = {_task(name, entry) for one in evaluations for name, entry in one.tasks.items()}
    kinds = {name: position for position, name in enumerate(("Retrieval", "Reranking", "STS"))}
    types = {name: entry.get("type") for one in evaluations for name, entry in one.tasks.items()}
    return sorted(
        tasks, key=lambda t: (kinds.get(str(types[t.name]), len(kinds)), t.name, t.metric, t.split, t.size)
    )


def entry_of(evaluation: Evaluation, task: Task) -> dict[str, Any] | None:
    """Return a model's result of a task, None if there is none with equal metric, split and size."""
    entry = evaluation.tasks.get(task.name)
    return entry if entry is not None and _task(task.name, entry) == task else None


def average_of(evaluation: Evaluation, tasks: Sequence[Task]) -> float | None:
    """Return the unweighted mean over tasks, None if the model has not run all of them."""
    entries = [entry_of(evaluation, task) for task in tasks]
    scores = [entry["main_score"] for entry in entries if entry is not None]
    return sum(scores) / len(scores) if scores and len(scores) == len(tasks) else None


def _task(name: str, entry: dict[str, Any]) -> Task:
    return Task(name, entry["main_metric"], entry["split"], int(entry["size"]))


def _rank(model: str) -> int:
    return next((i for i, ending in enumerate(_BASELINES, start=1) if model.endswith(ending)), 0)


def _checked(file: Path) -> dict[str, Any]:
    summary = read_json(file, _FIX)
    for key, kind in (("model", str), ("tasks", dict), ("manifest", dict)):
        if not isinstance(summary.get(key), kind):
            raise CareError(f"{file}: {key!r} is missing or not a {kind.__name__}; {_FIX}")
    for name, entry in summary["tasks"].items():
        where = f"{file}: task {name!r}"
        if not isinstance(entry, dict):
            raise CareError(f"{where} is not a JSON object; {_FIX}")
        for key in ("main_metric", "split"):
            if not isinstance(entry.get(key), str):
                raise CareError(f"{where} has no {key!r}; {_FIX}")
        interval = entry.get("interval")
        numbers = [entry.get("main_score"), entry.get("size")]
        if isinstance(interval, list) and len(interval) == 2:
            numbers += interval
        elif interval is not None:
            raise CareError(f"{where}: its interval is not a pair of numbers; {_FIX}")
        if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
            raise CareError(f"{where}: its score, size or interval is not a number; {_FIX}")
    summary.setdefault("skipped", [])
    summary["manifest"].setdefault("limit", None)
    return summary
