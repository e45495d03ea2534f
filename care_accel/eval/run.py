"""One model over some tasks: scores from mteb, written after every task, none computed twice."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import mteb
import numpy as np
from mteb.abstasks import AbsTask

from care_accel.errors import CareError
from care_accel.eval.scores import QueryScores, file_name, read_scores, task_file
from care_accel.eval.statistics.resampling import RESAMPLES, SEED
from care_accel.eval.statistics.uncertainty import interval_of_correlation, interval_of_mean, query_scores
from care_accel.eval.tasks import Skipped, load
from care_accel.files import make_folder, read_json, write_json
from care_accel.version import __version__

log = logging.getLogger(__name__)

SUMMARY = "summary.json"
# Every task that was ever finished here, whatever was asked for: what makes a run resumable.
FINISHED = "finished.json"
# The scores of each query of those tasks, a file a task: they are many, and seldom read.
FINISHED_SCORES = ".scores"
# Releases of these may change a score.
_DECIDING = ("mteb", "transformers", "tokenizers", "bm25s")
_PACKAGES = ("mteb", "torch", "transformers", "tokenizers", "numpy", "bm25s", "datasets")


class Evaluated(Protocol):
    """What a model has beside mteb's own protocols."""

    name: str
    seconds: dict[str, float]
    encoded: int
    cached: int

    @property
    def key(self) -> str:
        """A hash of all that decides the scores."""
        ...

    def supports(self, task: AbsTask) -> bool:
        """Tell whether the model can run a task."""
        ...

    def manifest(self) -> dict[str, Any]:
        """Return what a reader needs to repeat the scores."""
        ...


def evaluate(
    model: Any,
    tasks: Sequence[AbsTask],
    output: str | Path,
    *,
    skipped: Sequence[Skipped] = (),
    limit: int | None = None,
    overwrite: bool = False,
    device: str = "cpu",
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Run tasks and write two files a task and ``summary.json`` below ``output/<model>/``.

    A task's files are mteb's result and, as ``.scores.json``, the score of each query. All are of the latest
    run. ``finished.json`` and ``.scores`` beside them hold every task that was ever finished, so that none is
    run again by the same model and releases on the same data.

    Parameters
    ----------
    model : MtebModel or BM25Model
    tasks : sequence of mteb.AbsTask
    output : str or Path
    skipped : sequence of Skipped
        Recorded in the summary.
    limit : int, optional
        Only the first queries or pairs of each task; the tasks themselves keep all.
    overwrite : bool
        Run finished tasks again.
    device : str
        Recorded in the manifest.
    progress : callable, optional
        Called with a line after every task.

    Returns
    -------
    dict
        The summary: ``model``, ``tasks`` by name with ``main_metric`` and ``main_score`` (a fraction of
        1) and its 95 % bootstrap ``interval``, ``average`` over them, ``skipped``, ``manifest``. The manifest's ``kept`` holds those of earlier
        runs whose scores were taken over and that were made otherwise.

    Raises
    ------
    CareError
        A task's data cannot be read.
    """
    folder = Path(output) / file_name(model.name)
    for place in (folder, folder / FINISHED_SCORES):
        make_folder(place, "the output")
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
    for whole in tasks:
        name = whole.metadata.name
        if not model.supports(whole):
            summary["skipped"].append({"task": name, "reason": f"{model.name} gives pairs no score"})
            continue
        task = load(whole, limit)
        key = _task_key(model, task)
        of_queries = folder / FINISHED_SCORES / f"{key[:32]}.json"
        scores = None if overwrite or key not in finished else _read_scores(of_queries)
        kept = scores is not None
        if scores is None:
            entry, scores = _run(model, task)
            scores.write(of_queries)
            finished[key] = {"task": name, **entry, "manifest": manifest}
            write_json(folder / FINISHED, finished)
        _add(summary, name, task, finished[key])
        # Written from what is kept, so that a task's files and the summary beside them are of one run.
        write_json(task_file(folder, name), finished[key]["result"])
        scores.write(task_file(folder, name, ".scores.json"))
        write_json(folder / SUMMARY, summary)
        if progress:
            entry = summary["tasks"][name]
            how = "finished before" if kept else f"{entry['seconds']['total']:.1f} s"
            progress(f"{model.name}: {name} {entry['main_metric']} {entry['main_score']:.4f} ({how})")
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
    # A score that was kept was made by the run that made it.
    if any(manifest[field] != value for field, value in entry["manifest"].items()):
        manifest["kept"][name] = entry["manifest"]


def _run(model: Any, task: AbsTask) -> tuple[dict[str, Any], QueryScores]:
    """Run a task; return what is kept of it, and each query's score."""
    started, seconds = time.monotonic(), dict(model.seconds)
    encoded, cached = model.encoded, model.cached
    with tempfile.TemporaryDirectory() as folder:
        predictions = Path(folder) / task.prediction_file_name
        predictions.parent.mkdir(parents=True, exist_ok=True)  # a name such as retrieval/cmedir is a path
        found = mteb.evaluate(
            model,
            task,
            cache=None,
            overwrite_strategy="always",
            co2_tracker=False,
            show_progress_bar=False,
            prediction_folder=folder,
        )
        result = found.task_results[0]
        split, subsets = next(iter(result.scores.items()))
        metric, score = task.metadata.main_score, float(subsets[0]["main_score"])
        found_by_model = read_json(predictions, "")["default"][split]
    if not math.isfinite(score):
        raise CareError(
            f"{task.metadata.name}: {metric} is {score}; {model.name} gives every pair the same score"
        )
    scores = _query_scores(task, split, found_by_model)
    entry = {
        "main_metric": metric,
        "main_score": score,
        "interval": [round(bound, 5) for bound in _interval(scores)],
        "split": split,
        "type": task.metadata.type,
        "size": _size(task, split),
        "seconds": {
            "total": round(time.monotonic() - started, 3),
            **{phase: round(s - seconds.get(phase, 0.0), 3) for phase, s in model.seconds.items()},
        },
        "texts": {"encoded": model.encoded - encoded, "cached": model.cached - cached},
        "result": json.loads(result.model_dump_json()),
    }
    return entry, scores


def _query_scores(task: AbsTask, split: str, found: dict[str, Any]) -> QueryScores:
    """Return the score of every query, or every pair's similarity."""
    name, metric, data = task.metadata.name, task.metadata.main_score, _data(task, split)
    if isinstance(data, dict):
        scores = query_scores(metric, data["relevant_docs"], found)
        return QueryScores(name, metric, "mean", np.array(list(scores.values())), tuple(scores))
    return QueryScores(
        name,
        metric,
        "spearman" if metric == "spearman" else "pearson",
        np.array(found["similarity_scores"], dtype=np.float64),
        gold=np.array(data["score"], dtype=np.float64),
    )


def _interval(scores: QueryScores) -> tuple[float, float]:
    """Return the bootstrap interval of the main score, over queries or pairs."""
    if scores.gold is None:
        return interval_of_mean(scores.values)
    return interval_of_correlation(scores.gold, scores.values, ranks=scores.kind == "spearman")


def _read_scores(file: Path) -> QueryScores | None:
    """Return the scores of a finished task; None if they are not there, so that it is run again."""
    if not file.is_file():
        return None
    try:
        return read_scores(file)
    except CareError as damage:
        log.warning("%s", damage)
        return None


def _data(task: AbsTask, split: str) -> Any:
    assert task.dataset is not None  # read by now
    return task.dataset["default"][split] if "default" in task.dataset else task.dataset[split]


def _size(task: AbsTask, split: str) -> int:
    """Queries or pairs that were measured."""
    data = _data(task, split)
    return len(data["queries"]) if isinstance(data, dict) else len(data)


def _task_key(model: Evaluated, task: AbsTask) -> str:
    """Hash everything that decides a score and its interval."""
    parts = (
        model.key,
        task.metadata.name,
        task.metadata.main_score,
        str(task.metadata.dataset.get("revision")),
        *(f"{split} {_size(task, split)}" for split in task.eval_splits),
        *(f"{name} {_version(name)}" for name in _DECIDING),
        f"{RESAMPLES} resamples",
        __version__,
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _manifest(model: Evaluated, device: str, limit: int | None) -> dict[str, Any]:
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
    """Return the processor's name where the system says it, and the system."""
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
        log.warning("%s is no JSON; its tasks are run again", folder / FINISHED)
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
            "%s: replaces the summary of another model of this name; use another output to keep both", file
        )
