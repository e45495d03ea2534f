"""Loads the data of tasks: from files, from the local cache of the hub without asking it, or from the hub."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from mteb.abstasks import AbsTask, AbsTaskRetrieval, AbsTaskSTS

from care_accel.errors import CareError
from care_accel.eval.data.layout import check_all_shards
from care_accel.eval.tasks import PairTask, RankingTask

_REASON_CHARACTERS = 200


def load(task: AbsTask, limit: int | None = None) -> AbsTask:
    """Load a task's data.

    A data set of the hub is read from the hub's local cache if the revision that mteb names is there, and is whole; else the
    hub, or the mirror that ``HF_ENDPOINT`` names, is asked.

    Parameters
    ----------
    task : mteb.AbsTask
        Not modified by the limit.
    limit : int, optional
        Maximum queries of a ranking task, or pairs of an STS task; all documents are kept.

    Returns
    -------
    mteb.AbsTask
        The task, or with a limit a copy with its first queries or pairs.

    Raises
    ------
    CareError
        The data cannot be read or downloaded, the remaining STS pairs all have the same score, or a limit is given for a
        task of another kind.
    """
    name = task.metadata.name
    if limit is not None and not isinstance(task, AbsTaskRetrieval | AbsTaskSTS):
        raise CareError(f"{name}: --limit is for retrieval, reranking and STS; leave it out, or the task")
    try:
        if not task.data_loaded and not (_is_of_hub(task) and _load_from_cache(task)):
            task.load_data()
        if isinstance(task, AbsTaskRetrieval):
            task.convert_v1_dataset_format_to_v2(num_proc=None)
    except CareError:
        raise
    except Exception as cause:  # the hub's, datasets' and the network's own errors
        reason = " ".join(str(cause).split())[:_REASON_CHARACTERS]
        raise CareError(
            f"{name}: cannot be loaded: {reason}" + (_missing(task) if _is_of_hub(task) else "")
        ) from cause
    if limit is not None and task.dataset is not None:
        task = copy.copy(task)
        truncate = _truncate_ranking if isinstance(task, AbsTaskRetrieval) else _truncate_pairs
        task.dataset = _by_split(task, lambda data: truncate(data, limit))
    if isinstance(task, PairTask):
        _by_split(task, lambda data: _check_pairs(data, name))
    return task


def cached_snapshot(repository: str, revision: str) -> Path | None:
    """Return the folder of a data set's revision in the hub's local cache; None if it is not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(repository, repo_type="dataset", revision=revision, local_files_only=True)
        )
    except (LocalEntryNotFoundError, HFValidationError, FileNotFoundError):
        return None


def _is_of_hub(task: AbsTask) -> bool:
    return not isinstance(task, RankingTask | PairTask)


def _load_from_cache(task: AbsTask) -> bool:
    """Load a task from the hub's local cache, if it is there and whole; return whether that was so."""
    source = dict(task.metadata.dataset)
    if not source.get("revision") or (folder := cached_snapshot(source["path"], source["revision"])) is None:
        return False
    metadata = task.metadata
    try:
        check_all_shards(folder)
        # Of this object only: mteb has the metadata in the class.
        task.metadata = metadata.model_copy(update={"dataset": {**source, "path": str(folder)}})
        task.load_data()
    except Exception:  # a part is missing: the hub may have it
        task.dataset, task.data_loaded = None, False
        return False
    finally:
        task.metadata = metadata
    return True


def _missing(task: AbsTask) -> str:
    """Return where a task's data was looked for, and the ways to it."""
    from huggingface_hub import constants

    path, revision = (str(task.metadata.dataset.get(part)) for part in ("path", "revision"))
    found = "incomplete" if cached_snapshot(path, revision) is not None else "not there"
    return (
        f"; {path} at revision {revision[:7]} is {found} in {constants.HF_HUB_CACHE}: hf download --repo-type dataset {path} "
        f"--revision {revision}, with HF_ENDPOINT set to a mirror where the hub is out of reach, or take a folder from "
        "ModelScope with --data-dir"
    )


def _by_split(task: AbsTask, change: Callable[[Any], Any]) -> dict[str, Any]:
    """Apply a function to each split, of each subset if there are subsets."""
    dataset: Any = task.dataset
    if isinstance(dataset, DatasetDict):
        return DatasetDict({split: change(data) for split, data in dataset.items()})
    return {name: {s: change(data) for s, data in subset.items()} for name, subset in dataset.items()}


def _truncate_ranking(data: Any, limit: int) -> dict[str, Any]:
    queries = data["queries"].select(range(min(limit, len(data["queries"]))))
    kept = set(queries["id"])
    relevant = {q: d for q, d in data["relevant_docs"].items() if q in kept}
    return {**data, "queries": queries, "relevant_docs": relevant}


def _truncate_pairs(data: Dataset, limit: int) -> Dataset:
    return data.select(range(min(limit, len(data))))


def _check_pairs(data: Any, name: str) -> None:
    if len(set(data["score"])) < 2:
        raise CareError(
            f"{name}: correlation is undefined for {len(data)} pairs with the same score; use more pairs or a larger "
            "limit"
        )
