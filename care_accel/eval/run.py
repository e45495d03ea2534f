"""One model over some tasks: scores from mteb, written after every task, none computed twice."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import re
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import mteb
from mteb.abstasks import AbsTask
from mteb.results import TaskResult

from care_accel import __version__
from care_accel.eval.baselines import SEED
from care_accel.eval.tasks import Skipped, load
from care_accel.files import write_json

log = logging.getLogger(__name__)

SUMMARY = "summary.json"
# Every task that was ever finished here, whatever was asked for: what makes a run resumable.
FINISHED = "finished.json"
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
    """Run tasks and write one mteb result a task and ``summary.json`` below ``output/<model>/``.

    A task that the same model finished before on the same data is not run again.

    Parameters
    ----------
    model : MtebModel or BM25Model
    tasks : sequence of mteb.AbsTask
    output : str or Path
    skipped : sequence of Skipped
        Recorded in the summary.
    limit : int, optional
        Only the first queries or pairs of each task.
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
        1), ``average`` over them, ``skipped``, ``manifest``.

    Raises
    ------
    CareError
        A task's data cannot be read.
    """
    folder = Path(output) / _file_name(model.name)
    folder.mkdir(parents=True, exist_ok=True)
    finished = _read_finished(folder)
    summary: dict[str, Any] = {
        "model": model.name,
        "tasks": {},
        "average": None,
        "skipped": [vars(s) for s in skipped],
        "manifest": _manifest(model, device, limit),
    }
    for task in tasks:
        name = task.metadata.name
        if not model.supports(task):
            summary["skipped"].append({"task": name, "reason": f"{model.name} gives pairs no score"})
            continue
        key = _task_key(model, task, limit)
        file = folder / f"{_file_name(name)}.json"
        kept = not overwrite and finished.get(name, {}).get("key") == key and file.is_file()
        if not kept:
            finished[name] = _run(model, task, file, limit) | {"key": key}
            write_json(folder / FINISHED, finished)
        summary["tasks"][name] = {k: v for k, v in finished[name].items() if k != "key"}
        scores = [entry["main_score"] for entry in summary["tasks"].values()]
        summary["average"] = sum(scores) / len(scores)
        write_json(folder / SUMMARY, summary)
        if progress:
            entry = finished[name]
            how = "finished before" if kept else f"{entry['seconds']['total']:.1f} s"
            progress(f"{model.name}: {name} {entry['main_metric']} {entry['main_score']:.4f} ({how})")
    write_json(folder / SUMMARY, summary)
    return summary


def _run(model: Any, task: AbsTask, file: Path, limit: int | None) -> dict[str, Any]:
    started, seconds = time.monotonic(), dict(model.seconds)
    encoded, cached = model.encoded, model.cached
    load(task, limit)
    found = mteb.evaluate(
        model, task, cache=None, overwrite_strategy="always", co2_tracker=False, show_progress_bar=False
    )
    result = found.task_results[0]
    _write_result(result, file)
    split, subsets = next(iter(result.scores.items()))
    metric = task.metadata.main_score
    return {
        "main_metric": metric,
        "main_score": float(subsets[0]["main_score"]),
        "split": split,
        "type": task.metadata.type,
        "size": _size(task, split),
        "seconds": {
            "total": round(time.monotonic() - started, 3),
            **{phase: round(s - seconds.get(phase, 0.0), 3) for phase, s in model.seconds.items()},
        },
        "texts": {"encoded": model.encoded - encoded, "cached": model.cached - cached},
    }


def _size(task: AbsTask, split: str) -> int:
    """Queries or pairs that were measured."""
    data: Any = task.dataset["default"][split] if "default" in task.dataset else task.dataset[split]
    return len(data["queries"]) if isinstance(data, dict) else len(data)


def _task_key(model: Evaluated, task: AbsTask, limit: int | None) -> str:
    """Hash everything that decides a score."""
    parts = (
        model.key,
        task.metadata.name,
        task.metadata.main_score,
        str(task.metadata.dataset.get("revision")),
        ",".join(task.eval_splits),
        str(limit),
        version("mteb"),
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
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} logical cores",
    }


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


def _write_result(result: TaskResult, file: Path) -> None:
    temporary = file.with_name(file.name + ".tmp")
    result.to_disk(temporary)
    os.replace(temporary, file)


def _file_name(name: str) -> str:
    """Return a name that is one safe file name: ``retrieval/cmedir`` becomes ``retrieval__cmedir``."""
    return re.sub(r"[^\w.+-]", "_", name.replace("/", "__")).lstrip(".") or "_"
