"""Which relevant documents fell in a ranking, and what stands above them now."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from care_accel.eval.trec import read_grades, read_ranks

_DOCUMENTS_OF_A_QUERY = 3
_ABOVE = 3


@dataclass(frozen=True)
class Moved:
    """A relevant document that ranks lower in the second run.

    Attributes
    ----------
    query, document : str
    grade : int
    a, b : int or None
        Ranks in both runs, from 1; None if the ranking does not have the document.
    above : list of str
        The first documents that rank above it in the second run and did not in the first.
    """

    query: str
    document: str
    grade: int
    a: int | None
    b: int | None
    above: list[str]


def moved_documents(run_a: Path, run_b: Path, qrels: Path, queries: Sequence[str]) -> list[Moved]:
    """Return the relevant documents of some queries that rank lower in the second run.

    Parameters
    ----------
    run_a, run_b, qrels : Path
        Files of `care_accel.eval.trec`.
    queries : sequence of str

    Returns
    -------
    list of Moved
        In the order of the queries, and of each at most three documents, those first that ranked highest.

    Raises
    ------
    CareError
        A file cannot be read.
    """
    grades = read_grades(qrels, queries)
    first, second = (read_ranks(file, queries) for file in (run_a, run_b))
    moved = []
    for query in queries:
        before, after = first.get(query, {}), second.get(query, {})
        fallen = [
            document
            for document, grade in grades.get(query, {}).items()
            if grade > 0 and _rank(after, document) > _rank(before, document)
        ]
        fallen.sort(key=lambda document: before[document])
        in_order = sorted(after, key=after.__getitem__)
        for document in fallen[:_DOCUMENTS_OF_A_QUERY]:
            above = [
                other
                for other in in_order[: (after.get(document) or len(in_order) + 1) - 1]
                if _rank(before, other) > before[document]
            ]
            grade = grades[query][document]
            moved.append(Moved(query, document, grade, before[document], after.get(document), above[:_ABOVE]))
    return moved


def _rank(ranks: dict[str, int], document: str) -> float:
    return ranks.get(document, math.inf)
