"""Two runs of the evaluation side by side: which differences are more than chance, and which queries made them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from care_accel.errors import CareError
from care_accel.eval.folder import Ranking, find_sets
from care_accel.eval.scores import QueryScores, read_scores, task_file
from care_accel.eval.statistics.significance import LEVEL, Difference, adjusted, aligned, paired
from care_accel.files import read_json

SUMMARY = "summary.json"
SCHEMA = 1
_AGAIN = "run care-accel eval again with this release; it finds the vectors that it kept"
# Scores are rounded to five digits in a summary.
_ROUNDING = 1e-4
# A gain below this is the rounding of a sum.
_NO_GAIN = 1e-12


@dataclass(frozen=True)
class Run:
    """One model's results: ``results/<model>``.

    Attributes
    ----------
    model : str
    folder : Path
    summary : dict
        As `care_accel.eval.evaluate` wrote it.
    """

    model: str
    folder: Path
    summary: dict[str, Any]

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        """What the summary says of each task."""
        return self.summary["tasks"]

    def data(self, task: str) -> str | None:
        """Return the revision of a task's data."""
        return self.summary["manifest"]["data"].get(task)

    def absence(self, task: str) -> str | None:
        """Return why the run has no score of a task, where it says so."""
        return next((s["reason"] for s in self.summary["skipped"] if s["task"] == task), None)

    def scores(self, task: str) -> QueryScores:
        """Read the scores of a task's queries."""
        file, entry = task_file(self.folder, task, ".scores.json"), self.tasks[task]
        if not file.is_file():
            raise CareError(f"{file}: no such file, so there is no score of each query of {task}; {_AGAIN}")
        scores = read_scores(file)
        if (scores.task, scores.metric, len(scores)) != (task, entry["main_metric"], entry["size"]):
            raise _of_another_run(file)
        return scores


@dataclass(frozen=True)
class Query:
    """A query's score in both runs."""

    query: str
    a: float
    b: float


@dataclass(frozen=True)
class Compared:
    """One task in both runs.

    Attributes
    ----------
    difference : Difference
    better, equal, worse : int, optional
        How many queries are so in the second run; None for a correlation, where no pair has a score.
    gained, lost : list of Query
        Those that changed most, the largest change first.
    """

    difference: Difference
    better: int | None = None
    equal: int | None = None
    worse: int | None = None
    gained: list[Query] = field(default_factory=list)
    lost: list[Query] = field(default_factory=list)


@dataclass(frozen=True)
class LeftOut:
    """A task that is not compared, and why."""

    task: str
    reason: str


@dataclass(frozen=True)
class Comparison:
    """Two runs compared; differences are those from ``a`` to ``b``."""

    a: Run
    b: Run
    level: float
    tasks: list[Compared]
    left_out: list[LeftOut]

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON has it: numbers and ids, no texts."""
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


def read_run(place: str | Path) -> Run:
    """Read a run from its folder or from the summary in it.

    Raises
    ------
    CareError
        There is no summary, or it is none.
    """
    place = Path(place)
    file = place / SUMMARY if place.is_dir() else place
    if place.is_dir() and not file.is_file():
        inside = sorted(str(found.parent) for found in place.glob(f"*/{SUMMARY}"))
        mend = f"give one of {', '.join(inside)}" if inside else "care-accel eval writes one a model"
        raise CareError(f"{place}: holds no {SUMMARY}; {mend}")
    summary = read_json(file, f"a run is a folder that care-accel eval wrote, or its {SUMMARY}")
    try:
        run = Run(str(summary["model"]), file.parent, summary)
        for task, entry in run.tasks.items():
            run.data(task), entry["main_metric"], float(entry["main_score"]), entry["split"], entry["size"]
        run.absence("")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise CareError(f"{file}: is no summary of an evaluation; care-accel eval writes one") from None
    return run


def compare(a: Run, b: Run, *, level: float = LEVEL, top: int = 10) -> Comparison:
    """Compare two runs on the tasks that both have measured in the same way on the same data.

    Parameters
    ----------
    a, b : Run
        Differences are ``b`` less ``a``.
    level : float
        Of significance, over all tasks together (Holm).
    top : int
        Queries listed of those that gained and of those that lost most.

    Raises
    ------
    CareError
        A file with the scores of queries is missing or is of another run, or nothing can be compared.
    """
    left_out = list(_left_out(a, b))
    omitted = {one.task for one in left_out}
    # All are read before anything is computed: a missing file is said at once.
    scores = {task: (a.scores(task), b.scores(task)) for task in a.tasks if task not in omitted}
    for task, (first, second) in list(scores.items()):
        try:
            aligned(first, second)
        except CareError as reason:
            left_out.append(LeftOut(task, str(reason).removeprefix(f"{task}: ")))
            del scores[task]
    if not scores:
        reasons = "; ".join(f"{one.task}: {one.reason}" for one in left_out)
        raise CareError(f"{a.folder} and {b.folder}: nothing to compare: {reasons or 'no task was run'}")
    differences = adjusted([paired(*two, level=level) for two in scores.values()], level)
    for one in differences:
        for run, score in ((a, one.a), (b, one.b)):
            if abs(score - run.tasks[one.task]["main_score"]) > _ROUNDING:
                raise _of_another_run(task_file(run.folder, one.task, ".scores.json"))
    tasks = [_compared(one, *scores[one.task], top) for one in differences]
    return Comparison(a, b, level, tasks, left_out)


def query_texts(data_dir: Path, run: Run) -> dict[str, dict[str, str]]:
    """Return the texts of a run's queries, by task and id, of those tasks whose very data is in a folder.

    Raises
    ------
    CareError
        The folder has other files for a task than were measured, or no task's.
    """
    found: dict[str, dict[str, str]] = {}
    for source in find_sets(data_dir):
        if source.kind == "sts":
            continue
        digests = {split: source.digest(split) for split in source.splits}
        for task, entry in run.tasks.items():
            split = entry["split"]
            # By content: the tasks of CMedTEB are not named by their folders.
            if split in digests and digests[split] == run.data(task):
                data = source.read(split)
                assert isinstance(data, Ranking)
                found[task] = data.queries
            elif task == source.name:
                raise CareError(
                    f"{source.folder}: its {split} files are not those that {run.folder} was measured on; "
                    "run care-accel eval again, or leave out --data-dir"
                )
    if not found:
        raise CareError(f"--data-dir {data_dir}: holds no retrieval or reranking set of {run.folder}")
    return found


def _left_out(a: Run, b: Run) -> Iterator[LeftOut]:
    for task in {**a.tasks, **b.tasks}:
        for run, name, other in ((a, "A", "B"), (b, "B", "A")):
            if task not in run.tasks:
                why = run.absence(task)
                yield LeftOut(task, f"only in {other}" + (f" ({name}: {why})" if why else ""))
        if task in a.tasks and task in b.tasks and (reason := _unlike(a, b, task)):
            yield LeftOut(task, reason)


def _unlike(a: Run, b: Run, task: str) -> str | None:
    """Return why a task of both runs is not one and the same."""
    first, second = a.tasks[task], b.tasks[task]
    for name, word in (("main_metric", "metric"), ("split", "split")):
        if first[name] != second[name]:
            return f"{word} {first[name]} in A, {second[name]} in B"
    if a.data(task) != b.data(task):
        one, two = (str(run.data(task))[:12] for run in (a, b))
        return f"other data: revision {one} in A, {two} in B"
    if first["size"] != second["size"]:
        return f"{first['size']} queries or pairs in A, {second['size']} in B; run both with the same --limit"
    return None


def _compared(difference: Difference, a: QueryScores, b: QueryScores, top: int) -> Compared:
    if a.gold is not None:
        return Compared(difference)
    values = aligned(a, b)
    gains = values - a.values
    better, worse = gains > _NO_GAIN, gains < -_NO_GAIN
    # Ties stay in the order of the set.
    order = np.argsort(-gains, kind="stable"), np.argsort(gains, kind="stable")
    gained, lost = (
        [Query(a.queries[i], float(a.values[i]), float(values[i])) for i in rows[:top] if changed[i]]
        for rows, changed in zip(order, (better, worse), strict=True)
    )
    counts = int(better.sum()), int(worse.sum())
    return Compared(difference, counts[0], len(a) - sum(counts), counts[1], gained, lost)


def _of_another_run(file: Path) -> CareError:
    return CareError(f"{file}: does not belong to the {SUMMARY} beside it; {_AGAIN}")
