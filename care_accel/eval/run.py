"""Evaluates one model on tasks with mteb; results are written after each task, and finished tasks are reused."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from mteb.abstasks import AbsTask, AbsTaskRetrieval

from care_accel.errors import CareError
from care_accel.eval.loading import load
from care_accel.eval.scores import QueryScores, file_name, read_scores, task_file
from care_accel.eval.statistics.resampling import RESAMPLES, SEED
from care_accel.eval.task_run import is_detailed, run_task, task_data, task_size
from care_accel.eval.tasks import Skipped
from care_accel.eval.trec import check_ids, run_tag, write_qrels, write_run
from care_accel.files import read_json, write_json
from care_accel.folders import make_folder
from care_accel.version import __version__

log = logging.getLogger(__name__)

SUMMARY = "summary.json"
# Every task ever finished in this folder, so that runs can resume.
FINISHED = "finished.json"
# Per-query scores of those tasks, one file per task.
FINISHED_SCORES = ".scores"
# Packages whose version may change a score.
_SCORE_PACKAGES = ("mteb", "transformers", "tokenizers", "bm25s")
_PACKAGES = ("mteb", "torch", "transformers", "tokenizers", "numpy", "bm25s", "datasets")


class EvaluatedModel(Protocol):
    """What `evaluate` needs from a model besides mteb's own protocols."""

    name: str
    seconds: dict[str, float]
    encoded: int
    cached: int

    @property
    def key(self) -> str:
        """A hash of everything that affects the scores."""
        ...

    def supports(self, task: AbsTask) -> bool:
        """Whether the model can run a task."""
        ...

    def manifest(self) -> dict[str, Any]:
        """Return the settings needed to reproduce the scores."""
        ...


def evaluate(
    model: Any,
    tasks: Sequence[AbsTask],
    output: str | Path,
    *,
    skipped: Sequence[Skipped] = (),
    limit: int | None = None,
    overwrite: bool = False,
    save_run: bool = False,
    device: str = "cpu",
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Run tasks; write two files per task and ``summary.json`` to ``output/<model>/``.

    A task's files are mteb's result and, as ``.scores.json``, the per-query scores, both of the latest run; with ``save_run``
    also the rankings and the judgements in TREC's form, as ``.run`` and ``.qrels``.
    ``finished.json`` and ``.scores`` hold every task finished so far, so that a task is not run again with the same
    model, package versions and data.

    Parameters
    ----------
    model : MtebModel, BM25Model or HybridModel
    tasks : sequence of mteb.AbsTask
    output : str or Path
    skipped : sequence of Skipped
        Recorded in the summary.
    limit : int, optional
        Maximum queries or pairs per task; the task objects are not changed.
    overwrite : bool
        Run finished tasks again.
    save_run : bool
        Write the rankings of retrieval and reranking tasks; a finished task whose rankings were not kept is run again.
    device : str
        Recorded in the manifest.
    progress : callable, optional
        Called with a line after every task.

    Returns
    -------
    dict
        The summary: ``model``; ``tasks`` by name, each with ``main_metric``, ``main_score`` (0 to 1) and its 95 %
        bootstrap confidence ``interval``; their ``average``; ``skipped``; ``manifest``. The manifest's ``kept`` holds
        the manifests of earlier runs whose scores were reused, where they differ.

    Raises
    ------
    CareError
        A task's data cannot be read.
    """
    folder = Path(output) / file_name(model.name)
    for needed in (folder, folder / FINISHED_SCORES):
        make_folder(needed, "the output")
    finished = _read_finished(folder)
    manifest = _manifest(model, device, limit)
    _warn_of_another_model(folder, manifest)
    summary: dict[str, Any] = {
        "model": model.name,
        "tasks": {},
        "average": None,
        "skipped": [vars(s) for s in skipped],
        "manifest": manifest | {"seconds": {}, "data": {}, "kept": {}},
    }
    for full_task in tasks:
        name = full_task.metadata.name
        if not model.supports(full_task):
            reason = f"{model.name} does not support {full_task.metadata.type}"
            summary["skipped"].append({"task": name, "reason": reason})
            continue
        task = load(full_task, limit)
        key = _task_key(model, task)
        run_file, tag = task_file(folder, name, ".run"), f"{file_name(model.name)}.{key[:12]}"
        ranks = isinstance(task, AbsTaskRetrieval) and is_detailed(task)
        if save_run and ranks:
            _check_ids(task)
        scores_file = folder / FINISHED_SCORES / f"{key[:32]}.json"
        reused = not overwrite and key in finished and (not save_run or not ranks or run_tag(run_file) == tag)
        scores = None
        if reused and finished[key].get("interval") is not None:
            scores = _read_scores(scores_file)
            reused = scores is not None
        if not reused:
            measured = run_task(model, task)
            scores = measured.scores
            if scores is not None:
                scores.write(scores_file)
            if save_run and measured.rankings is not None:
                write_run(run_file, measured.rankings, tag)
                data = task_data(task, measured.entry["split"])
                write_qrels(task_file(folder, name, ".qrels"), data["relevant_docs"])
            finished[key] = {"task": name, **measured.entry, "manifest": manifest}
            write_json(folder / FINISHED, finished)
        _add(summary, name, task, finished[key])
        if ranks and run_tag(run_file) == tag:
            summary["tasks"][name]["run"] = tag
        # Also for reused tasks, so that the task's files match the summary.
        write_json(task_file(folder, name), finished[key]["result"])
        if scores is not None:
            scores.write(task_file(folder, name, ".scores.json"))
        write_json(folder / SUMMARY, summary)
        if progress:
            entry = summary["tasks"][name]
            note = "finished before" if reused else f"{entry['seconds']['total']:.1f} s"
            progress(f"{model.name}: {name} {entry['main_metric']} {entry['main_score']:.4f} ({note})")
    write_json(folder / SUMMARY, summary)
    return summary


def _add(summary: dict[str, Any], name: str, task: AbsTask, entry: dict[str, Any]) -> None:
    """Add a finished task to a summary."""
    summary["tasks"][name] = {k: v for k, v in entry.items() if k not in ("task", "result", "manifest")}
    scores = [one["main_score"] for one in summary["tasks"].values()]
    summary["average"] = sum(scores) / len(scores)
    manifest = summary["manifest"]
    manifest["data"][name] = task.metadata.dataset.get("revision")
    for phase, seconds in entry["seconds"].items():
        manifest["seconds"][phase] = round(manifest["seconds"].get(phase, 0.0) + seconds, 3)
    # Record the manifest of the run that computed a reused score, if it differs.
    if any(manifest[field] != value for field, value in entry["manifest"].items()):
        manifest["kept"][name] = entry["manifest"]


def _check_ids(task: AbsTask) -> None:
    for split in task.eval_splits:
        data = task_data(task, split)
        check_ids(task.metadata.name, (key for part in ("queries", "corpus") for key in data[part]["id"]))


def _read_scores(file: Path) -> QueryScores | None:
    """Return the per-query scores of a finished task; None if missing or corrupt, so that it is run again."""
    if not file.is_file():
        return None
    try:
        return read_scores(file)
    except CareError as damage:
        log.warning("%s", damage)
        return None


def _task_key(model: EvaluatedModel, task: AbsTask) -> str:
    """Hash everything that affects a score and its confidence interval."""
    parts = (
        model.key,
        task.metadata.name,
        task.metadata.main_score,
        str(task.metadata.dataset.get("revision")),
        *(f"{split} {task_size(task, split)}" for split in task.eval_splits),
        *(f"{name} {_version(name)}" for name in _SCORE_PACKAGES),
        f"{RESAMPLES} resamples",
        __version__,
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _manifest(model: EvaluatedModel, device: str, limit: int | None) -> dict[str, Any]:
    return {
        **model.manifest(),
        "device": device,
        "seed": SEED,
        "limit": limit,
        "score": "BM25" if model.name == "bm25" else "inner product",
        "versions": {"care-accel": __version__, "python": platform.python_version()}
        | {name: _version(name) for name in _PACKAGES},
        "machine": f"{_processor()}, {os.cpu_count()} logical cores",
    }


def _processor() -> str:
    """Return the CPU model, if known, and the operating system."""
    system = f"{platform.system()} {platform.machine()}"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return system
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {system}" if names else system


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _read_finished(folder: Path) -> dict[str, Any]:
    try:
        values = json.loads((folder / FINISHED).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        log.warning("%s is not JSON; its tasks are run again", folder / FINISHED)
        return {}
    return values if isinstance(values, dict) else {}


def _warn_of_another_model(folder: Path, manifest: dict[str, Any]) -> None:
    file = folder / SUMMARY
    if not file.is_file():
        return
    before = read_json(file, "").get("manifest", {})
    if any(
        before.get(role, {}).get("revision") != manifest.get(role, {}).get("revision")
        for role in ("query", "document")
    ):
        log.warning(
            "%s: overwrites the summary of another model of the same name; use another output folder to keep both",
            file,
        )
