"""Hard negatives: documents that the model, or their words, take for an answer and that are none."""

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
    rows: list[Row], model: DualEncoder, source: DataFile, mining: Mining, kept: Path
) -> list[Row]:
    """Add mined negatives behind those that rows have, the hardest first.

    Candidates are the first ``mining.depth`` documents of the file by the model and by BM25. One that
    scores nearly as well as a positive may answer the query, unlabelled: only those at least ``margin`` below
    the lowest positive stay, relative to its score (NV-Retriever, Moreira et al., 2024).

    Parameters
    ----------
    rows : list of (query, positive, negatives)
    model : DualEncoder
    source : DataFile
        For the task's prompts.
    mining : Mining
    kept : Path
        A file of JSON lines that the result is written to, or read from if it is there.

    Returns
    -------
    list of (query, positive, negatives)
        In the order of ``rows``.
    """
    if kept.is_file():
        return [(query, positive, hard) for _, (query, positive, hard) in read_json_values(kept)]
    documents = list(dict.fromkeys(text for _, positive, hard in rows for text in (positive, *hard)))
    answers: dict[str, set[str]] = {}
    for query, positive, _ in rows:
        answers.setdefault(query, set()).add(positive)
    found = _negatives(answers, documents, model, source, mining)
    mined = [(query, positive, list(dict.fromkeys([*hard, *found[query]]))) for query, positive, hard in rows]
    log.info(
        "%s: %.1f negatives mined a query on average",
        source.file,
        np.mean([len(negatives) for negatives in found.values()]),
    )
    temporary = kept.with_name(kept.name + ".tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in mined), encoding="utf-8")
    temporary.replace(kept)
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
