"""Each query's score of one task, kept beside its mteb file so that two runs can be compared query by query.

A file holds ids and numbers, no text. For a task that is a correlation over pairs it holds, pair by pair, how
alike people and the model found them: one pair alone has no score.
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
    """What one model reached on one task, query by query or pair by pair.

    Attributes
    ----------
    task : str
    metric : str
        mteb's name of the main metric.
    kind : {"mean", "pearson", "spearman"}
        How the values become the score of the task.
    values : numpy.ndarray
        float64 ``[n]``: a score a query, or for a correlation the model's similarity of each pair.
    queries : tuple of str
        Ids, ``n`` of them; empty for a correlation, whose pairs are known by their order.
    gold : numpy.ndarray, optional
        float64 ``[n]``, what people said of each pair; for a correlation only.
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
        """Write the file; only its owner can read it, as ids and judgements may be about patients."""
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
    """Read what `QueryScores.write` wrote.

    Raises
    ------
    CareError
        The file is missing or damaged, or another release wrote it.
    """
    mend = "run care-accel eval again, which writes it"
    found = read_json(file, mend)
    if found.get("schema") != SCHEMA:
        raise CareError(f"{file}: schema {found.get('schema')!r} is unknown; this release reads {SCHEMA}")
    damaged = CareError(f"{file}: holds no scores of single queries; {mend}")
    if found.get("kind") not in get_args(Average):
        raise damaged
    correlation = found["kind"] != "mean"
    try:
        columns = [
            np.array(found[name], dtype=np.float64)
            for name in (("similarity", "gold") if correlation else ("scores",))
        ]
        queries = () if correlation else tuple(map(str, found["queries"]))
        scores = QueryScores(
            str(found["task"]),
            str(found["metric"]),
            found["kind"],
            columns[0],
            queries,
            columns[1] if correlation else None,
        )
    except (KeyError, TypeError, ValueError):
        raise damaged from None
    lengths = {len(queries)} if not correlation else set()
    lengths |= {len(column) if column.ndim == 1 else -1 for column in columns}
    if len(lengths) != 1 or min(lengths) < 1 or not all(np.isfinite(column).all() for column in columns):
        raise damaged
    return scores


def task_file(folder: Path, task: str, suffix: str = ".json") -> Path:
    """Return a task's file in a model's folder: mteb's result, or with ``.scores.json`` its queries' scores."""
    return folder / f"{file_name(task)}{suffix}"


def file_name(name: str) -> str:
    """Return a name that is one safe file name: ``retrieval/cmedir`` becomes ``retrieval__cmedir``."""
    return re.sub(r"[^\w.+-]", "_", name.replace("/", "__")).lstrip(".") or "_"
