"""Runs one task with mteb: its score, and where they can be told apart, the scores and rankings of its queries."""

from __future__ import annotations

import json
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mteb
import numpy as np
from datasets import Dataset
from mteb.abstasks import AbsTask, AbsTaskRetrieval, AbsTaskSTS

from care_accel.errors import CareError
from care_accel.eval.scores import QueryScores
from care_accel.eval.statistics.uncertainty import correlation_interval, mean_interval, query_scores
from care_accel.files import read_json

_SUBSET = "default"
# mteb rounds scores to five digits.
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Measured:
    """The result of a task.

    Attributes
    ----------
    entry : dict
        ``main_metric``, ``main_score``, ``interval`` (None without scores by query), ``split``, ``type``, ``size``, ``seconds``,
        ``texts``, and mteb's own ``result``.
    scores : QueryScores, optional
        None for tasks whose score is not a mean over queries or a correlation over pairs.
    rankings : dict of query to dict of document to float, optional
        Of retrieval and reranking.
    """

    entry: dict[str, Any]
    scores: QueryScores | None
    rankings: dict[str, dict[str, float]] | None


def run_task(model: Any, task: AbsTask) -> Measured:
    """Run a task that is loaded and has one split.

    Raises
    ------
    CareError
        The score is undefined.
    """
    started, seconds = time.monotonic(), dict(model.seconds)
    encoded, cached = model.encoded, model.cached
    with tempfile.TemporaryDirectory() as folder:
        predictions = Path(folder) / task.prediction_file_name
        predictions.parent.mkdir(parents=True, exist_ok=True)  # a name such as retrieval/cmedir is a path
        detailed = is_detailed(task)
        results = mteb.evaluate(
            model,
            task,
            cache=None,
            overwrite_strategy="always",
            co2_tracker=False,
            show_progress_bar=False,
            prediction_folder=folder if detailed else None,
        )
        result = results.task_results[0]
        split, subsets = next(iter(result.scores.items()))
        metric = task.metadata.main_score
        score = float(np.mean([subset["main_score"] for subset in subsets]))
        output = read_json(predictions, "")[_SUBSET][split] if detailed else None
    if not math.isfinite(score):
        raise CareError(
            f"{task.metadata.name}: {metric} is {score}, because {model.name} gives every pair the same score; use more "
            "pairs or another model"
        )
    rankings = _rankings(task, output) if isinstance(task, AbsTaskRetrieval) and output is not None else None
    scores = None if output is None else _query_scores(task, split, rankings or output)
    if scores is not None and abs(_whole(scores) - score) > _TOLERANCE:
        scores = None  # the task's own rules: what is known of its queries is not what was measured
    entry = {
        "main_metric": metric,
        "main_score": score,
        "interval": None if scores is None else [round(bound, 5) for bound in _interval(scores)],
        "split": split,
        "type": task.metadata.type,
        "size": task_size(task, split),
        "seconds": {
            "total": round(time.monotonic() - started, 3),
            **{phase: round(s - seconds.get(phase, 0.0), 3) for phase, s in model.seconds.items()},
        },
        "texts": {"encoded": model.encoded - encoded, "cached": model.cached - cached},
        "result": json.loads(result.model_dump_json()),
    }
    return Measured(entry, scores, rankings)


def is_detailed(task: AbsTask) -> bool:
    """Return whether a task has one subset of queries or pairs, whose scores are known one by one."""
    if not isinstance(task, AbsTaskRetrieval | AbsTaskSTS) or task.dataset is None:
        return False
    return set(task.dataset) == {_SUBSET} or (
        _SUBSET not in task.dataset and not task.metadata.is_multilingual
    )


def task_data(task: AbsTask, split: str) -> Any:
    """Return the data of a split: for retrieval and reranking a dict, for STS a data set."""
    assert task.dataset is not None  # loaded by now
    return task.dataset[_SUBSET][split] if _SUBSET in task.dataset else task.dataset[split]


def task_size(task: AbsTask, split: str) -> int:
    """Return the number of queries, pairs or rows, over all subsets."""
    assert task.dataset is not None
    splits = [task.dataset] if split in task.dataset else list(task.dataset.values())
    data = [one[split] for one in splits if split in one]
    return sum(len(one["queries"] if isinstance(task, AbsTaskRetrieval) else one) for one in data)


def _rankings(task: AbsTaskRetrieval, output: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return what the metrics see of a model's rankings."""
    if not task.ignore_identical_ids:
        return output
    return {query: {d: s for d, s in scores.items() if d != query} for query, scores in output.items()}


def _query_scores(task: AbsTask, split: str, output: dict[str, Any]) -> QueryScores | None:
    """Return the score of each query, or the similarity of each pair; None for other metrics."""
    name, metric, data = task.metadata.name, task.metadata.main_score, task_data(task, split)
    if isinstance(task, AbsTaskRetrieval):
        try:
            scores = query_scores(metric, data["relevant_docs"], output)
        except ValueError:
            return None
        return QueryScores(name, metric, "mean", np.array(list(scores.values())), tuple(scores))
    similarity = output["cosine_scores" if metric.startswith("cosine_") else "similarity_scores"]
    if not isinstance(data, Dataset) or not metric.endswith(("spearman", "pearson")) or similarity is None:
        return None
    return QueryScores(
        name,
        metric,
        "spearman" if metric.endswith("spearman") else "pearson",
        np.array(similarity, dtype=np.float64),
        gold=np.array(data["score"], dtype=np.float64),
    )


def _whole(scores: QueryScores) -> float:
    """Return the task's score by the scores of its queries."""
    if scores.gold is None:
        return float(scores.values.mean())
    x, y = scores.gold, scores.values
    if scores.kind == "spearman":
        from scipy.stats import rankdata

        x, y = rankdata(x), rankdata(y)
    return float(np.corrcoef(x, y)[0, 1])


def _interval(scores: QueryScores) -> tuple[float, float]:
    """Return the bootstrap confidence interval of the main score, over queries or pairs."""
    if scores.gold is None:
        return mean_interval(scores.values)
    return correlation_interval(scores.gold, scores.values, ranks=scores.kind == "spearman")
