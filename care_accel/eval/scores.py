"""Per-query scores of one task, stored next to mteb's result so that two runs can be compared query by query.

A file has ids and numbers, no texts. For a correlation task (STS) it has the gold score and the model's similarity of
each pair, because a single pair has no correlation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from care_accel.errors import CareError
from care_accel.files import read_json, write_json

SCHEMA = 1
Average = Literal["mean", "pearson", "spearman"]


@dataclass(frozen=True)
class QueryScores:
    """Scores of one model on one task, per query or per pair.

    Attributes
    ----------
    task : str
    metric : str
        mteb's name of the main metric.
    kind : {"mean", "pearson", "spearman"}
        How the task's score is computed from the values.
    values : numpy.ndarray
        float64 ``[n]``: score of each query, or for a correlation the model's similarity of each pair.
    queries : tuple of str
        Query ids ``[n]``; empty for a correlation, whose pairs are identified by position.
    gold : numpy.ndarray, optional
        float64 ``[n]``: gold score of each pair; for a correlation only.
    """

    task: str
    metric: str
    kind: Average
    values: NDArray[np.float64]
    queries: tuple[str, ...] = ()
    gold: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def write(self, file: Path) -> None:
        """Write the file with mode 0600, because ids and judgements may be patient data."""
        values: dict[str, Any] = {
            "schema": SCHEMA,
            "task": self.task,
            "metric": self.metric,
            "kind": self.kind,
        }
        if self.gold is None:
            values |= {"queries": list(self.queries), "scores": self.values.tolist()}
        else:
            values |= {"gold": self.gold.tolist(), "similarity": self.values.tolist()}
        write_json(file, values, private=True)


def read_scores(file: Path) -> QueryScores:
    """Read a file written by `QueryScores.write`.

    Raises
    ------
    CareError
        The file is missing or invalid, or has another schema version.
    """
    hint = "run care-accel eval again to write it"
    values = read_json(file, hint)
    if values.get("schema") != SCHEMA:
        raise CareError(f"{file}: schema {values.get('schema')!r} is unknown; this release reads {SCHEMA}")
    invalid = CareError(f"{file}: not a file of per-query scores; {hint}")
    if values.get("kind") not in get_args(Average):
        raise invalid
    correlation = values["kind"] != "mean"
    try:
        columns = [
            np.array(values[name], dtype=np.float64)
            for name in (("similarity", "gold") if correlation else ("scores",))
        ]
        queries = () if correlation else tuple(map(str, values["queries"]))
        scores = QueryScores(
            str(values["task"]),
            str(values["metric"]),
            values["kind"],
            columns[0],
            queries,
            columns[1] if correlation else None,
        )
    except (KeyError, TypeError, ValueError):
        raise invalid from None
    lengths = {len(queries)} if not correlation else set()
    lengths |= {len(column) if column.ndim == 1 else -1 for column in columns}
    if len(lengths) != 1 or min(lengths) < 1 or not all(np.isfinite(column).all() for column in columns):
        raise invalid
    return scores


def task_file(folder: Path, task: str, suffix: str = ".json") -> Path:
    """Return a task's file in a model's folder: mteb's result, or with suffix ``.scores.json`` the per-query scores."""
    return folder / f"{file_name(task)}{suffix}"


def file_name(name: str) -> str:
    """Convert a name to a safe file name: ``retrieval/cmedir`` becomes ``retrieval__cmedir``."""
    return re.sub(r"[^\w.+-]", "_", name.replace("/", "__")).lstrip(".") or "_"
