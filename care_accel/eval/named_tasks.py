"""Tasks and benchmarks of mteb by their names."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Sequence

import mteb
from mteb.abstasks import AbsTask

from care_accel.errors import CareError
from care_accel.eval.loading import load
from care_accel.eval.tasks import Skipped, select

_PREFERRED_SPLIT = "test"


def named_tasks(names: Sequence[str], split: str | None = None) -> list[AbsTask]:
    """Return tasks of mteb, each with one split.

    Parameters
    ----------
    names : sequence of str
        Such as ``CmedqaRetrieval``.
    split : str, optional
        By default ``test`` where a task evaluates that, else the first of its splits.

    Raises
    ------
    CareError
        mteb has no such task, the task has no such split, or it cannot be run here.
    """
    tasks = []
    for name in dict.fromkeys(names):
        task = _task(name)
        if reason := _unfit(task, split):
            raise CareError(f"--mteb {name}: {reason}")
        tasks.append(_with_split(task, split))
    return tasks


def benchmark_tasks(
    name: str, split: str | None = None, patterns: Sequence[str] = ()
) -> tuple[list[AbsTask], list[Skipped]]:
    """Return the tasks of a benchmark of mteb, each with one split, and those that cannot be run here.

    Parameters
    ----------
    name : str
        Such as ``MTEB(cmn, v1)``.
    split : str, optional
        As in `named_tasks`; tasks without it are skipped.
    patterns : sequence of str
        Names of tasks, or shell patterns such as ``*Retrieval``; all tasks if empty.

    Raises
    ------
    CareError
        mteb has no such benchmark, a pattern matches no task, or nothing is left to run.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            benchmark = mteb.get_benchmark(name)
        except KeyError as unknown:
            raise CareError(f"--benchmark {name}: mteb has no such benchmark{_hint(unknown)}") from None
    everything = {task.metadata.name: task for task in benchmark.tasks}
    tasks, skipped = [], []
    for chosen in select(list(everything), patterns):
        task = everything[chosen]
        if reason := _unfit(task, split):
            skipped.append(Skipped(chosen, reason))
        else:
            tasks.append(_with_split(task, split))
    if not tasks:
        reasons = "; ".join(f"{one.task} {one.reason}" for one in skipped)
        raise CareError(f"--benchmark {name}: nothing to run: {reasons}")
    return tasks, skipped


def load_available(
    tasks: Sequence[AbsTask],
    limit: int | None = None,
    *,
    keep_going: bool = False,
    report: Callable[[str], None] | None = None,
) -> tuple[list[AbsTask], list[Skipped]]:
    """Load the data of tasks, and say for each one that cannot be loaded what is missing.

    Parameters
    ----------
    tasks : sequence of mteb.AbsTask
    limit : int, optional
        See `load`.
    keep_going : bool
        Return the others; by default one is enough to stop.
    report : callable, optional
        Called with a line for every task that cannot be loaded; without it the first one's error is raised.

    Raises
    ------
    CareError
        A task cannot be loaded, or with ``keep_going`` none can.
    """
    loaded, skipped = [], []
    for task in tasks:
        try:
            loaded.append(load(task, limit))
        except CareError as missing:
            if report is None:
                raise
            report(str(missing))
            reason = str(missing).removeprefix(f"{task.metadata.name}: ")
            skipped.append(Skipped(task.metadata.name, reason))
    if skipped and not (keep_going and loaded):
        names = ", ".join(one.task for one in skipped)
        raise CareError(f"{len(skipped)} of {len(tasks)} tasks cannot be loaded: {names}")
    return loaded, skipped


def _task(name: str) -> AbsTask:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a task has a successor
        try:
            return mteb.get_task(name)
        except KeyError as unknown:
            raise CareError(f"--mteb {name}: mteb has no such task{_hint(unknown)}") from None


def _hint(unknown: KeyError) -> str:
    """Return mteb's suggestion, if it has one."""
    suggestion = re.search(r"Did you mean: '?(.+?)'?\?", str(unknown.args[0]))
    return f"; did you mean {suggestion[1]}?" if suggestion else ""


def _unfit(task: AbsTask, split: str | None) -> str | None:
    """Return why a task cannot be run here; None if it can."""
    if task.is_aggregate:
        return "is an aggregate of other tasks; name those"
    if others := sorted({*task.metadata.modalities} - {"text"}):
        return f"needs {' and '.join(others)}; only text is encoded here"
    if split is not None and split not in task.eval_splits:
        return f"has no split {split!r} (has {', '.join(task.eval_splits)})"
    return None


def _with_split(task: AbsTask, split: str | None) -> AbsTask:
    task = copy.copy(task)  # mteb's benchmarks hand out the same objects to all
    splits = list(task.eval_splits)
    chosen = split or (_PREFERRED_SPLIT if _PREFERRED_SPLIT in splits else splits[0])
    return task.filter_eval_splits([chosen])
