"""Rankings and judgements as files of TREC's form, which ``trec_eval`` and its relatives read."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from care_accel.errors import CareError
from care_accel.files import read_lines, write_lines


def ranked(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return documents and scores in the order that ``trec_eval`` gives them.

    It keeps scores as float32 and ignores the ranks of a file: higher scores first, of equal ones the larger id, compared byte
    by byte.

    Parameters
    ----------
    scores : mapping of str to float
    """
    # The order of code points is that of the bytes of UTF-8.
    documents = sorted(scores, reverse=True)
    values = np.array([scores[document] for document in documents], dtype=np.float32)
    order = np.argsort(-values, kind="stable")
    return [(documents[i], float(scores[documents[i]])) for i in order]


def write_run(file: Path, rankings: Mapping[str, Mapping[str, float]], tag: str) -> None:
    """Write a run: ``query Q0 document rank score tag``, ranks from 1, readable by its owner only.

    Scores are written so that they are read back exactly. A query without documents has no line: ``trec_eval -c`` counts it.

    Parameters
    ----------
    file : Path
    rankings : mapping of str to mapping of str to float
        Scores by query and document.
    tag : str
        Names the run.
    """
    lines = (
        f"{query} Q0 {document} {rank} {score!r} {tag}\n"
        for query, scores in rankings.items()
        for rank, (document, score) in enumerate(ranked(scores), start=1)
    )
    write_lines(file, lines, private=True)


def write_qrels(file: Path, relevant: Mapping[str, Mapping[str, int]]) -> None:
    """Write judgements: ``query 0 document grade``, readable by their owner only."""
    lines = (
        f"{query} 0 {document} {grade}\n"
        for query, grades in relevant.items()
        for document, grade in grades.items()
    )
    write_lines(file, lines, private=True)


def run_tag(file: Path) -> str | None:
    """Return the tag of a run's file, from its first line; None if there is no such file or line."""
    if not file.is_file():
        return None
    for _, line in read_lines(file):
        cells = line.split()
        return cells[-1] if len(cells) == 6 else None
    return None


def read_ranks(file: Path, queries: Collection[str]) -> dict[str, dict[str, int]]:
    """Return the ranks of the documents of some queries in a run's file, by query and document.

    Raises
    ------
    CareError
        A line has not the six columns; the message gives file and line.
    """
    return _grouped(file, queries, columns=6, value=3, name="a run: query, Q0, document, rank, score, tag")


def read_grades(file: Path, queries: Collection[str]) -> dict[str, dict[str, int]]:
    """Return the grades of some queries in a file of `write_qrels`; errors as in `read_ranks`."""
    return _grouped(file, queries, columns=4, value=3, name="judgements: query, 0, document, grade")


def check_ids(task: str, ids: Iterator[str]) -> None:
    """Check that ids can stand in such a file.

    Raises
    ------
    CareError
        One has a space in it.
    """
    for key in ids:
        if len(key.split()) != 1 or key.split()[0] != key:
            raise CareError(
                f"{task}: the id {key!r} has a space or is empty, and columns of a run file are separated by spaces; rename it "
                "or leave out --save-run"
            )


def _grouped(
    file: Path, queries: Collection[str], *, columns: int, value: int, name: str
) -> dict[str, dict[str, int]]:
    wanted = frozenset(queries)
    found: dict[str, dict[str, int]] = {}
    for line, text in read_lines(file):
        cells = text.split()
        if len(cells) != columns:
            raise CareError(f"{file}, line {line}: {len(cells)} columns; expected {name}")
        if cells[0] in wanted:
            try:
                found.setdefault(cells[0], {})[cells[2]] = int(cells[value])
            except ValueError:
                raise CareError(
                    f"{file}, line {line}: {cells[value]!r} is not an integer; expected {name}"
                ) from None
    return found
