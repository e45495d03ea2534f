"""Hard negative mining with judges: retrieved candidates are judged, which separates hard from false negatives."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from care_accel.curation.labels.candidates import document_vectors, retrieve
from care_accel.curation.steps import Progress, no_progress
from care_accel.encoding import DualEncoder
from care_accel.errors import CareError, require_count
from care_accel.eval.cache import EmbeddingCache
from care_accel.index.fusion import reciprocal_rank_fusion

_QUERY_BATCH = 1024

# Returns for each (query, document) whether the document is relevant; None if it could not be judged.
Judge = Callable[[Sequence[tuple[str, str]]], Sequence[bool | None]]


@dataclass
class JudgedCandidates:
    """Judged candidates of a query.

    Attributes
    ----------
    negatives : list of int
        Positions of hard negatives: retrieved but not relevant, the hardest first.
    false_negatives : list of int
        Positions of relevant documents without a label.
    undecided : list of int
        Positions of documents that could not be judged; used as neither.
    """

    negatives: list[int] = field(default_factory=list)
    false_negatives: list[int] = field(default_factory=list)
    undecided: list[int] = field(default_factory=list)


def fused_candidates(
    queries: Sequence[str],
    documents: Sequence[str],
    model: str,
    depth: int = 50,
    *,
    progress: Progress = no_progress,
    cache: EmbeddingCache | None = None,
) -> NDArray[np.int64]:
    """Hybrid retrieval: dense and BM25 rankings fused by RRF as in `Retriever`.

    Parameters
    ----------
    queries, documents : sequence of str
    model : str
        Name or folder of a dual encoder.
    depth : int
        Candidates per query, and depth of each ranking.
    progress : callable, optional
    cache : EmbeddingCache, optional
        Where documents' vectors are kept between runs.

    Returns
    -------
    numpy.ndarray
        int64 ``[n, depth]``: positions, best first, padded with -1.
    """
    require_count("depth", depth)
    rankings = [retrieve(name, queries, documents, depth, progress, cache) for name in (model, "bm25")]
    return reciprocal_rank_fusion(rankings, depth)[1]


def drop_likely_positives(
    queries: Sequence[str],
    documents: Sequence[str],
    candidates: NDArray[np.int64],
    positives: Sequence[Collection[int]],
    model: str,
    margin: float,
    *,
    progress: Progress = no_progress,
    cache: EmbeddingCache | None = None,
) -> NDArray[np.int64]:
    """Positive-aware filter: drop candidates that score close to a known positive or above, as likely false negatives.

    Candidates are kept if they score at least ``margin`` below the lowest-scoring known positive, relative to its
    score (NV-Retriever, Moreira et al., 2024), as in the mining of `care_accel.training`. Without known positives,
    all are kept.

    Parameters
    ----------
    queries, documents : sequence of str
    candidates : numpy.ndarray
        int64 ``[n, depth]``: positions of documents, best first, padded with -1.
    positives : sequence of collection of int
        Positions of the known positives of each query.
    model : str
        Name or folder of the dual encoder that scores.
    margin : float
    progress : callable, optional
    cache : EmbeddingCache, optional
        Where documents' vectors are kept between runs.

    Returns
    -------
    numpy.ndarray
        ``candidates`` with -1 for dropped ones.
    """
    scorer = DualEncoder.from_pretrained(model)
    vectors = document_vectors(scorer, documents, progress, cache)
    kept = candidates.copy()
    for row, (query, own) in enumerate(zip(_query_vectors(scorer, queries), positives, strict=True)):
        if own:
            lowest = (vectors[list(own)] @ query).min()
            kept[row, vectors[kept[row]] @ query > lowest - margin * abs(lowest)] = -1
    return kept


def _query_vectors(model: DualEncoder, queries: Sequence[str]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(queries), _QUERY_BATCH):
        yield from model.encode_query(queries[start : start + _QUERY_BATCH])


def judge_candidates(
    queries: Sequence[str],
    documents: Sequence[str],
    candidates: NDArray[np.int64],
    labelled: Sequence[Collection[int]],
    judge: Judge,
    count: int = 7,
) -> list[JudgedCandidates]:
    """Find the first ``count`` irrelevant candidates of each query.

    Candidates are judged in order, in rounds over all queries, until a query has its negatives; later candidates are
    not paid for. Each round is one call of the judge, so that it can process pairs concurrently; a judgement must
    depend on its pair only.

    Parameters
    ----------
    queries, documents : sequence of str
    candidates : numpy.ndarray
        int64 ``[n, depth]``: positions of documents, best first, padded with -1.
    labelled : sequence of collection of int
        Documents with a label for each query; they are not judged.
    judge : callable
        See `Judge`.
    count : int

    Returns
    -------
    list of JudgedCandidates
        One per query; fewer negatives if its candidates have fewer.

    Raises
    ------
    CareError
        The judge returned a wrong number of judgements.
    """
    require_count("count", count)
    left = [
        [int(found) for found in row if found >= 0 and found not in known]
        for row, known in zip(candidates, labelled, strict=True)
    ]
    judged = [JudgedCandidates() for _ in queries]
    while True:
        round_ = [
            (row, document)
            for row, found in enumerate(judged)
            for document in left[row][: count - len(found.negatives)]
        ]
        if not round_:
            return judged
        judgements = judge([(queries[row], documents[document]) for row, document in round_])
        if len(judgements) != len(round_):
            raise CareError(f"the judge returned {len(judgements)} judgements for {len(round_)} pairs")
        for (row, document), relevant in zip(round_, judgements, strict=True):
            found = judged[row]
            {True: found.false_negatives, False: found.negatives, None: found.undecided}[relevant].append(
                document
            )
            left[row].remove(document)
