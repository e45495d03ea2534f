"""What the evaluation wrote: a summary a model, and how their tasks lie beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from care_accel.errors import CareError
from care_accel.files import read_json

SUMMARY = "summary.json"
# Models are shown before what they are held against.
_BASELINES = ("-hybrid", "-document-twin", "-query-twin", "-twin", "bm25", "-untrained")
_MEND = "run care-accel eval again, or remove the folder"


@dataclass(frozen=True)
class Evaluation:
    """The latest evaluation of one model."""

    folder: Path
    summary: dict[str, Any]

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self.summary["model"])

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        """By name: metric, score as a fraction of 1, interval, split, size."""
        return self.summary["tasks"]

    @property
    def manifest(self) -> dict[str, Any]:
        """What a reader needs to repeat the scores."""
        return self.summary["manifest"]


@dataclass(frozen=True)
class Task:
    """A task as one or more models were measured on it: the same metric, split and size."""

    name: str
    metric: str
    split: str
    size: int


def read_evaluations(folder: Path) -> list[Evaluation]:
    """Return the evaluation of every model below a folder, baselines last.

    Raises
    ------
    CareError
        A summary is no JSON, or lacks what a summary has; the file is named.
    """
    found = [Evaluation(file.parent, _checked(file)) for file in sorted(folder.glob(f"*/{SUMMARY}"))]
    return sorted((one for one in found if one.tasks), key=lambda one: (_rank(one.model), one.model))


def tasks_of(evaluations: Sequence[Evaluation]) -> list[Task]:
    """Return every task, in order of kind and name; one that models ran on different data appears once for each."""
    tasks = {_task(name, entry) for one in evaluations for name, entry in one.tasks.items()}
    kinds = {name: position for position, name in enumerate(("Retrieval", "Reranking", "STS"))}
    types = {name: entry.get("type") for one in evaluations for name, entry in one.tasks.items()}
    return sorted(
        tasks, key=lambda t: (kinds.get(str(types[t.name]), len(kinds)), t.name, t.metric, t.split, t.size)
    )


def entry_of(evaluation: Evaluation, task: Task) -> dict[str, Any] | None:
    """Return a model's entry of a task, or None if it has none of the same metric, split and size."""
    entry = evaluation.tasks.get(task.name)
    return entry if entry is not None and _task(task.name, entry) == task else None


def average_of(evaluation: Evaluation, tasks: Sequence[Task]) -> float | None:
    """Return the plain mean over tasks, or None if the model has not run all of them."""
    entries = [entry_of(evaluation, task) for task in tasks]
    scores = [entry["main_score"] for entry in entries if entry is not None]
    return sum(scores) / len(scores) if scores and len(scores) == len(tasks) else None


def _task(name: str, entry: dict[str, Any]) -> Task:
    return Task(name, entry["main_metric"], entry["split"], int(entry["size"]))


def _rank(model: str) -> int:
    return next((i for i, ending in enumerate(_BASELINES, start=1) if model.endswith(ending)), 0)


def _checked(file: Path) -> dict[str, Any]:
    summary = read_json(file, _MEND)
    for key, kind in (("model", str), ("tasks", dict), ("manifest", dict)):
        if not isinstance(summary.get(key), kind):
            raise CareError(f"{file}: {key!r} is missing or no {kind.__name__}; {_MEND}")
    for name, entry in summary["tasks"].items():
        where = f"{file}: task {name!r}"
        if not isinstance(entry, dict):
            raise CareError(f"{where} is no JSON object; {_MEND}")
        for key in ("main_metric", "split"):
            if not isinstance(entry.get(key), str):
                raise CareError(f"{where} has no {key!r}; {_MEND}")
        interval = entry.get("interval")
        numbers = [entry.get("main_score"), entry.get("size")]
        if isinstance(interval, list) and len(interval) == 2:
            numbers += interval
        elif interval is not None:
            raise CareError(f"{where}: its interval is no pair of numbers; {_MEND}")
        if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
            raise CareError(f"{where}: its score, size or interval is no number; {_MEND}")
    summary.setdefault("skipped", [])
    summary["manifest"].setdefault("limit", None)
    return summary
