"""Hard negatives apart from false ones: what retrieval takes for an answer is judged before it is called none."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from care_accel.curation.labels.candidates import document_vectors, rank
from care_accel.curation.steps import Progress, silent
from care_accel.encoding import DualEncoder
from care_accel.errors import CareError, require_count
from care_accel.eval.cache import EmbeddingCache
from care_accel.index.fusion import reciprocal_rank_fusion

_QUERIES_AT_ONCE = 1024

# Tells of each (query, document) whether the document answers the query; None where nobody could tell.
Judge = Callable[[Sequence[tuple[str, str]]], Sequence[bool | None]]


@dataclass
class Separated:
    """What the judge made of a query's candidates.

    Attributes
    ----------
    negatives : list of int
        Positions of documents that look like answers and are none, the hardest first.
    false_negatives : list of int
        Positions of documents that answer the query without a label that says so.
    undecided : list of int
        Positions of documents that nobody could judge: neither of both.
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
    progress: Progress = silent,
    cache: EmbeddingCache | None = None,
) -> NDArray[np.int64]:
    """Rank documents by vectors and by words, fused by reciprocal rank as in `Retriever`.

    Parameters
    ----------
    queries, documents : sequence of str
    model : str
        A dual encoder's name or folder.
    depth : int
        How many candidates a query, and how many of each ranking are fused.
    progress : callable, optional
    cache : EmbeddingCache, optional
        Where documents' vectors are kept between runs.

    Returns
    -------
    numpy.ndarray
        int64 ``[n, depth]``: positions, best first; -1 where there are fewer.
    """
    require_count("depth", depth)
    rankings = [rank(name, queries, documents, depth, progress, cache) for name in (model, "bm25")]
    return reciprocal_rank_fusion(rankings, depth)[1]


def below_answers(
    queries: Sequence[str],
    documents: Sequence[str],
    candidates: NDArray[np.int64],
    answers: Sequence[Collection[int]],
    model: str,
    margin: float,
    *,
    progress: Progress = silent,
    cache: EmbeddingCache | None = None,
) -> NDArray[np.int64]:
    """Leave out candidates that score nearly as well as an answer, or better: they may be answers themselves.

    Only those at least ``margin`` below the lowest of a query's known answers stay, relative to its score
    (NV-Retriever, Moreira et al., 2024), as in the mining of `care_accel.training`. Where no answer is known,
    all stay.

    Parameters
    ----------
    queries, documents : sequence of str
    candidates : numpy.ndarray
        int64 ``[n, depth]``: positions of documents, best first; -1 for none.
    answers : sequence of collection of int
        Positions of the known answers of each query.
    model : str
        Whose scores are compared: a dual encoder's name or folder.
    margin : float
    progress : callable, optional
    cache : EmbeddingCache, optional
        Where documents' vectors are kept between runs.

    Returns
    -------
    numpy.ndarray
        ``candidates`` with -1 in place of what is left out.
    """
    scorer = DualEncoder.from_pretrained(model)
    vectors = document_vectors(scorer, documents, progress, cache)
    kept = candidates.copy()
    for row, (asked, own) in enumerate(zip(_query_vectors(scorer, queries), answers, strict=True)):
        if own:
            lowest = (vectors[list(own)] @ asked).min()
            kept[row, vectors[kept[row]] @ asked > lowest - margin * abs(lowest)] = -1
    return kept


def _query_vectors(model: DualEncoder, queries: Sequence[str]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        yield from model.encode_query(queries[start : start + _QUERIES_AT_ONCE])


def separate(
    queries: Sequence[str],
    documents: Sequence[str],
    candidates: NDArray[np.int64],
    answers: Sequence[Collection[int]],
    judge: Judge,
    count: int = 7,
) -> list[Separated]:
    """Find the first ``count`` candidates of each query that do not answer it.

    Candidates are judged in their order, a few of every query at a time, until a query has its negatives: what
    comes behind them is not paid for. The judge is asked about all queries together, so that it may work on many
    pairs at once; an answer may depend on its pair alone.

    Parameters
    ----------
    queries, documents : sequence of str
    candidates : numpy.ndarray
        int64 ``[n, depth]``: positions of documents, best first; -1 for none.
    answers : sequence of collection of int
        Documents known to answer each query; they are not judged.
    judge : callable
        See `Judge`.
    count : int

    Returns
    -------
    list of Separated
        One a query; fewer negatives where its candidates have fewer.

    Raises
    ------
    CareError
        The judge gave another number of answers than it was asked for.
    """
    require_count("count", count)
    left = [
        [int(found) for found in row if found >= 0 and found not in known]
        for row, known in zip(candidates, answers, strict=True)
    ]
    separated = [Separated() for _ in queries]
    while True:
        asked = [
            (row, document)
            for row, found in enumerate(separated)
            for document in left[row][: count - len(found.negatives)]
        ]
        if not asked:
            return separated
        said = judge([(queries[row], documents[document]) for row, document in asked])
        if len(said) != len(asked):
            raise CareError(f"the judge was asked about {len(asked)} pairs and answered {len(said)}")
        for (row, document), answer in zip(asked, said, strict=True):
            found = separated[row]
            {True: found.false_negatives, False: found.negatives, None: found.undecided}[answer].append(
                document
            )
            left[row].remove(document)
