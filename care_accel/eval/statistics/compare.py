"""Compares two evaluation runs: significant differences per task, and the queries that changed most."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from care_accel.errors import CareError
from care_accel.eval.data.reading import Ranking
from care_accel.eval.folder import find_sets
from care_accel.eval.scores import QueryScores, read_scores, task_file
from care_accel.eval.statistics.movement import Moved, moved_documents
from care_accel.eval.statistics.significance import LEVEL, Difference, adjust_holm, aligned, paired_test
from care_accel.eval.trec import run_tag
from care_accel.files import read_json

SUMMARY = "summary.json"
SCHEMA = 1
_RERUN = "run care-accel eval again with this release; it reuses the cached embeddings"
# Tolerance for a summary's scores, which are rounded to five digits.
_TOLERANCE = 1e-4
# A smaller change of a query's score is rounding.
_MIN_CHANGE = 1e-12


@dataclass(frozen=True)
class Run:
    """One model's results: ``results/<model>``.

    Attributes
    ----------
    model : str
    folder : Path
    summary : dict
        As written by `care_accel.eval.evaluate`.
    """

    model: str
    folder: Path
    summary: dict[str, Any]

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        """The summary's entries by task."""
        return self.summary["tasks"]

    def data(self, task: str) -> str | None:
        """Return the revision of a task's data."""
        return self.summary["manifest"]["data"].get(task)

    def absence(self, task: str) -> str | None:
        """Return the recorded reason why the run skipped a task, if any."""
        return next((s["reason"] for s in self.summary["skipped"] if s["task"] == task), None)

    def scores(self, task: str) -> QueryScores:
        """Read a task's per-query scores."""
        file, entry = task_file(self.folder, task, ".scores.json"), self.tasks[task]
        if not file.is_file():
            raise CareError(f"{file}: no such file with the per-query scores of {task}; {_RERUN}")
        scores = read_scores(file)
        if (scores.task, scores.metric, len(scores)) != (task, entry["main_metric"], entry["size"]):
            raise _of_another_run(file)
        return scores

    def rankings(self, task: str) -> Path | None:
        """Return the task's run file, if its rankings were saved with the scores of the summary."""
        file, tag = task_file(self.folder, task, ".run"), self.tasks[task].get("run")
        return file if tag is not None and run_tag(file) == tag else None


@dataclass(frozen=True)
class QueryChange:
    """A query's score in both runs."""

    query: str
    a: float
    b: float


@dataclass(frozen=True)
class TaskComparison:
    """One task in both runs.

    Attributes
    ----------
    difference : Difference
    better, equal, worse : int, optional
        Number of queries that are better, equal or worse in the second run; None for a correlation, which has no
        per-query scores.
    gained, lost : list of QueryChange
        Queries with the largest gains and losses, largest first.
    moved : list of Moved, optional
        The relevant documents of the lost queries that rank lower in the second run; None if the rankings of a run
        were not saved.
    """

    difference: Difference
    better: int | None = None
    equal: int | None = None
    worse: int | None = None
    gained: list[QueryChange] = field(default_factory=list)
    lost: list[QueryChange] = field(default_factory=list)
    moved: list[Moved] | None = None


@dataclass(frozen=True)
class ExcludedTask:
    """A task that is not compared, and why."""

    task: str
    reason: str


@dataclass(frozen=True)
class Comparison:
    """Comparison of two runs; differences are ``b - a``."""

    a: Run
    b: Run
    level: float
    tasks: list[TaskComparison]
    left_out: list[ExcludedTask]

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON values: numbers and ids, no texts."""
        return {
            "schema": SCHEMA,
            **{
                name: {"model": run.model, "folder": str(run.folder)}
                for name, run in (("a", self.a), ("b", self.b))
            },
            "level": self.level,
            "tasks": [
                asdict(one.difference) | {k: v for k, v in asdict(one).items() if k != "difference"}
                for one in self.tasks
            ],
            "left_out": [asdict(one) for one in self.left_out],
        }


def read_run(path: str | Path) -> Run:
    """Read a run from its folder or its ``summary.json``.

    Raises
    ------
    CareError
        The summary is missing or invalid.
    """
    path = Path(path)
    file = path / SUMMARY if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        runs = sorted(str(summary.parent) for summary in path.glob(f"*/{SUMMARY}"))
        hint = f"give one of {', '.join(runs)}" if runs else "care-accel eval writes one per model"
        raise CareError(f"{path}: no {SUMMARY}; {hint}")
    summary = read_json(file, f"give a results folder of care-accel eval, or its {SUMMARY}")
    try:
        run = Run(str(summary["model"]), file.parent, summary)
        for task, entry in run.tasks.items():
            run.data(task), entry["main_metric"], float(entry["main_score"]), entry["split"], entry["size"]
        run.absence("")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise CareError(f"{file}: not a summary of care-accel eval; run it to write one") from None
    return run


def compare(a: Run, b: Run, *, level: float = LEVEL, top: int = 10) -> Comparison:
    """Compare two runs on the tasks that both ran with the same metric on the same data.

    Parameters
    ----------
    a, b : Run
        Differences are ``b - a``.
    level : float
        Significance level over all tasks (Holm correction).
    top : int
        Maximum queries listed of the largest gains and of the largest losses.

    Raises
    ------
    CareError
        A file of per-query scores is missing or belongs to another run, or the runs share no comparable task.
    """
    excluded = list(_excluded(a, b))
    excluded_names = {one.task for one in excluded}
    # Read all files before computing, so that a missing file is reported at once.
    scores = {task: (a.scores(task), b.scores(task)) for task in a.tasks if task not in excluded_names}
    for task, (first, second) in list(scores.items()):
        try:
            aligned(first, second)
        except CareError as reason:
            excluded.append(ExcludedTask(task, str(reason).removeprefix(f"{task}: ")))
            del scores[task]
    if not scores:
        reasons = "; ".join(f"{one.task}: {one.reason}" for one in excluded)
        raise CareError(f"{a.folder} and {b.folder}: nothing to compare: {reasons or 'no task was run'}")
    differences = adjust_holm([paired_test(*pair, level=level) for pair in scores.values()], level)
    for one in differences:
        for run, score in ((a, one.a), (b, one.b)):
            if abs(score - run.tasks[one.task]["main_score"]) > _TOLERANCE:
                raise _of_another_run(task_file(run.folder, one.task, ".scores.json"))
    tasks = [_with_movement(_compared(one, *scores[one.task], top), a, b, one.task) for one in differences]
    return Comparison(a, b, level, tasks, excluded)


def query_texts(data_dir: Path, run: Run) -> dict[str, dict[str, str]]:
    """Return the texts of a run's queries by task and id, for the tasks whose data is in a folder.

    Raises
    ------
    CareError
        The folder's files of a task differ from the run's, or it has no task of the run.
    """
    texts: dict[str, dict[str, str]] = {}
    for source in find_sets(data_dir):
        if source.kind == "sts":
            continue
        digests = {split: source.digest(split) for split in source.splits}
        for task, entry in run.tasks.items():
            split = entry["split"]
            # Match by content: the tasks of CMedTEB are not named by their folders.
            if split in digests and digests[split] == run.data(task):
                data = source.read(split)
                assert isinstance(data, Ranking)
                texts[task] = data.queries
            elif task == source.name:
                raise CareError(
                    f"{source.folder}: its {split} files differ from those of {run.folder}; run care-accel eval again, "
                    "or omit --data-dir"
                )
    if not texts:
        raise CareError(f"--data-dir {data_dir}: no retrieval or reranking set of {run.folder}")
    return texts


def _excluded(a: Run, b: Run) -> Iterator[ExcludedTask]:
    for task in {**a.tasks, **b.tasks}:
        for run, name, other in ((a, "A", "B"), (b, "B", "A")):
            if task not in run.tasks:
                skipped = run.absence(task)
                yield ExcludedTask(task, f"only in {other}" + (f" ({name}: {skipped})" if skipped else ""))
        if task in a.tasks and task in b.tasks:
            if reason := _mismatch(a, b, task):
                yield ExcludedTask(task, reason)
            elif a.tasks[task].get("interval", ()) is None:
                yield ExcludedTask(task, "its score is not one of queries or pairs")


def _mismatch(a: Run, b: Run, task: str) -> str | None:
    """Return why a task's scores are not comparable between the runs; None if they are."""
    first, second = a.tasks[task], b.tasks[task]
    for name, label in (("main_metric", "metric"), ("split", "split")):
        if first[name] != second[name]:
            return f"{label} {first[name]} in A, {second[name]} in B"
    if a.data(task) != b.data(task):
        one, two = (str(run.data(task))[:12] for run in (a, b))
        return f"different data: revision {one} in A, {two} in B"
    if first["size"] != second["size"]:
        return f"{first['size']} queries or pairs in A, {second['size']} in B; run both with the same --limit"
    return None


def _compared(difference: Difference, a: QueryScores, b: QueryScores, top: int) -> TaskComparison:
    if a.gold is not None:
        return TaskComparison(difference)
    values = aligned(a, b)
    gains = values - a.values
    better, worse = gains > _MIN_CHANGE, gains < -_MIN_CHANGE
    # Stable sort: ties keep the order of the data set.
    order = np.argsort(-gains, kind="stable"), np.argsort(gains, kind="stable")
    gained, lost = (
        [QueryChange(a.queries[i], float(a.values[i]), float(values[i])) for i in rows[:top] if changed[i]]
        for rows, changed in zip(order, (better, worse), strict=True)
    )
    counts = int(better.sum()), int(worse.sum())
    return TaskComparison(difference, counts[0], len(a) - sum(counts), counts[1], gained, lost)


def _with_movement(compared: TaskComparison, a: Run, b: Run, task: str) -> TaskComparison:
    if not compared.lost:
        return replace(compared, moved=[])
    first, second = a.rankings(task), b.rankings(task)
    qrels = task_file(b.folder, task, ".qrels")
    if first is None or second is None or not qrels.is_file():
        return compared
    moved = moved_documents(first, second, qrels, [one.query for one in compared.lost])
    return replace(compared, moved=moved)


def _of_another_run(file: Path) -> CareError:
    return CareError(f"{file}: does not belong to the {SUMMARY} next to it; {_RERUN}")
