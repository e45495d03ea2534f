"""Hard negative mining with the model and BM25."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np

from care_accel.encoding import DualEncoder
from care_accel.files import read_json_values
from care_accel.index import BM25Index, ExactIndex
from care_accel.training.data.rows import Row
from care_accel.training.recipe import DataFile, Mining

log = logging.getLogger(__name__)


def mine_negatives(
    rows: list[Row], model: DualEncoder, source: DataFile, mining: Mining, cache_file: Path
) -> list[Row]:
    """Append mined hard negatives to those of the rows, the hardest first.

    Candidates are the top ``mining.depth`` documents of the file by the model and by BM25. Those that score close to a
    positive may be false negatives: only candidates at least ``margin`` below the lowest-scoring positive, relative to
    its score, are kept (NV-Retriever, Moreira et al., 2024).

    Parameters
    ----------
    rows : list of (query, positive, negatives)
    model : DualEncoder
    source : DataFile
        For the task's prompts.
    mining : Mining
    cache_file : Path
        JSON lines that the result is written to, or read from if they exist.

    Returns
    -------
    list of (query, positive, negatives)
        In the order of ``rows``.
    """
    if cache_file.is_file():
        return [(query, positive, hard) for _, (query, positive, hard) in read_json_values(cache_file)]
    documents = list(dict.fromkeys(text for _, positive, hard in rows for text in (positive, *hard)))
    answers: dict[str, set[str]] = {}
    for query, positive, _ in rows:
        answers.setdefault(query, set()).add(positive)
    found = _negatives(answers, documents, model, source, mining)
    mined = [(query, positive, list(dict.fromkeys([*hard, *found[query]]))) for query, positive, hard in rows]
    log.info(
        "%s: %.1f negatives mined per query on average",
        source.file,
        np.mean([len(negatives) for negatives in found.values()]),
    )
    temporary = cache_file.with_name(cache_file.name + ".tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in mined), encoding="utf-8")
    temporary.replace(cache_file)
    return mined


def _negatives(
    answers: dict[str, set[str]], documents: list[str], model: DualEncoder, source: DataFile, mining: Mining
) -> dict[str, list[str]]:
    """Return the hard negatives of each query, the hardest first."""
    queries = list(answers)
    position = {text: i for i, text in enumerate(documents)}
    index = ExactIndex(model.width)
    index.add(model.encode_document(documents, task=source.task, show_progress=True))
    vectors = model.encode_query(queries, task=source.task, show_progress=True)
    rankings = [
        index.search(vectors, k=mining.depth)[1],
        BM25Index(documents).search(queries, k=mining.depth)[1],
    ]
    found = {}
    for row, (query, positives) in enumerate(answers.items()):
        own = np.array([position[text] for text in positives])
        near = np.unique(np.concatenate([ranking[row] for ranking in rankings]))
        candidates = np.setdiff1d(near[near >= 0], own)
        lowest = (index.vectors[own] @ vectors[row]).min()
        scores = index.vectors[candidates] @ vectors[row]
        safe = scores <= lowest - mining.margin * abs(lowest)
        order = np.argsort(-scores[safe], kind="stable")[: mining.count]
        found[query] = [documents[i] for i in candidates[safe][order]]
    return found
