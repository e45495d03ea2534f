"""Reads data folders; errors give file and line.

Layout, each file plain or gzip::

    retrieval/<name>/corpus.jsonl      {"_id", "title", "text"}
    retrieval/<name>/queries.jsonl     {"_id", "text"}
    retrieval/<name>/qrels/<split>.tsv query-id, corpus-id, score (an integer)
    reranking/<name>/<split>.jsonl     {"query", "positive": [...], "negative": [...]}
    sts/<name>/<split>.jsonl           {"sentence1", "sentence2", "score"}
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from care_accel.errors import CareError
from care_accel.files import find_plain_or_gzip, read_jsonl, read_lines, text_field, text_list_field

Kind = Literal["retrieval", "reranking", "sts"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_FILE_OF = {"query": "queries.jsonl", "document": "corpus.jsonl"}


@dataclass
class Ranking:
    """Queries, documents and relevance judgements.

    Attributes
    ----------
    queries : dict of str to str
    documents : dict of str to (title, text)
    relevant : dict of query to dict of document to grade
    candidates : dict of query to list of documents, or None
        Candidates per query of a reranking set; None for a retrieval set.
    """

    queries: dict[str, str] = field(default_factory=dict)
    documents: dict[str, tuple[str, str]] = field(default_factory=dict)
    relevant: dict[str, dict[str, int]] = field(default_factory=dict)
    candidates: dict[str, list[str]] | None = None


@dataclass
class Pairs:
    """Sentence pairs with gold similarity scores."""

    first: list[str] = field(default_factory=list)
    second: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class DataSet:
    """One data set of a data folder; read lazily.

    Attributes
    ----------
    kind : {"retrieval", "reranking", "sts"}
    folder : Path
    """

    kind: Kind
    folder: Path

    @property
    def name(self) -> str:
        """``retrieval/cmedir``: the path below the data folder."""
        return f"{self.kind}/{self.folder.name}"

    @property
    def splits(self) -> list[str]:
        """The splits that have labels."""
        folder, suffix = (
            (self.folder / "qrels", ".tsv") if self.kind == "retrieval" else (self.folder, ".jsonl")
        )
        names = (file.name.removesuffix(".gz") for file in folder.glob("*"))
        return sorted({name.removesuffix(suffix) for name in names if name.endswith(suffix)})

    def files(self, split: str) -> list[Path]:
        """Return the files of a split.

        Raises
        ------
        CareError
            A file is missing; the message names it.
        """
        names = [f"{split}.jsonl"]
        if self.kind == "retrieval":
            names = ["corpus.jsonl", "queries.jsonl", f"qrels/{split}.tsv"]
        paths = []
        for file in (self.folder / name for name in names):
            path = find_plain_or_gzip(file)
            if path is None:
                known = f"; available splits: {', '.join(self.splits)}" if self.splits else ""
                raise CareError(f"{file}: no such file, plain or .gz{known}")
            paths.append(path)
        return paths

    def digest(self, split: str) -> str:
        """Return a hash of a split's files, which identifies the data of a result."""
        total = hashlib.sha256()
        for file in self.files(split):
            total.update(hashlib.sha256(file.read_bytes()).digest())
        return total.hexdigest()

    def read(self, split: str) -> Ranking | Pairs:
        """Read a split.

        Raises
        ------
        CareError
            A file is missing or a row is invalid; the message gives file and line.
        """
        if self.kind == "retrieval":
            return _read_retrieval(*self.files(split))
        (file,) = self.files(split)
        return _read_reranking(file) if self.kind == "reranking" else _read_sts(file)


def find_sets(data_dir: Path) -> list[DataSet]:
    """Return the data sets of a data folder, by kind and name.

    Raises
    ------
    CareError
        The folder is missing or has no data set.
    """
    if not data_dir.is_dir():
        raise CareError(f"{data_dir}: no such folder; --data-dir must have retrieval/, reranking/ or sts/")
    sets = [
        DataSet(kind, folder)
        for kind in KINDS
        for folder in sorted((data_dir / kind).glob("*"))
        if folder.is_dir()
    ]
    if not sets:
        raise CareError(f"{data_dir}: no data set; put data sets in retrieval/, reranking/ or sts/")
    return sets


def read_documents(file: Path) -> dict[str, tuple[str, str]]:
    """Read a corpus: title and text by id.

    Raises
    ------
    CareError
        A row is invalid; the message gives file and line.
    """
    documents: dict[str, tuple[str, str]] = {}
    for line, row in read_jsonl(file):
        key = _new_id(row, documents, file, line)
        title = text_field(row, "title", file, line) if row.get("title") is not None else ""
        documents[key] = title, text_field(row, "text", file, line)
    return documents


def read_queries(file: Path) -> dict[str, str]:
    """Read queries: text by id; errors as in `read_documents`."""
    queries: dict[str, str] = {}
    for line, row in read_jsonl(file):
        queries[_new_id(row, queries, file, line)] = text_field(row, "text", file, line)
    return queries


def read_judgements(
    file: Path, queries: Container[str], documents: Container[str]
) -> dict[str, dict[str, int]]:
    """Read relevance judgements (qrels): grade by query and document.

    Raises
    ------
    CareError
        A row is invalid, contradicts another, or has an unknown query or document id.
    """
    grades: dict[str, dict[str, int]] = {}
    for line, text in read_lines(file):
        values = text.rstrip("\r\n").split("\t")
        if line == 1 and values[-1] == "score":
            continue
        query, document, grade = _judgement(values, file, line)
        for key, known, name in ((query, queries, "query"), (document, documents, "document")):
            if key not in known:
                raise CareError(f"{file}, line {line}: {name} {key!r} is not in {_FILE_OF[name]}")
        if grades.setdefault(query, {}).setdefault(document, grade) != grade:
            raise CareError(
                f"{file}, line {line}: query {query!r} and document {document!r} have a different score in an earlier "
                "line"
            )
    return grades


def _read_retrieval(corpus: Path, queries: Path, qrels: Path) -> Ranking:
    documents, texts = read_documents(corpus), read_queries(queries)
    relevant = read_judgements(qrels, texts, documents)
    if not any(grade > 0 for grades in relevant.values() for grade in grades.values()):
        raise CareError(f"{qrels}: no score above 0; add relevant documents")
    judged = {query: text for query, text in texts.items() if query in relevant}
    return Ranking(judged, documents, relevant)


def _judgement(values: list[str], file: Path, line: int) -> tuple[str, str, int]:
    if len(values) != 3:
        raise CareError(
            f"{file}, line {line}: {len(values)} columns; expected query-id, corpus-id and score, separated by tabs"
        )
    try:
        return values[0], values[1], int(values[2])
    except ValueError:
        raise CareError(f"{file}, line {line}: score {values[2]!r} is not an integer") from None


def _new_id(row: dict[str, Any], known: Container[str], file: Path, line: int) -> str:
    key = text_field(row, "_id", file, line)
    if key in known:
        raise CareError(f"{file}, line {line}: duplicate _id {key!r}")
    return key


def _read_reranking(file: Path) -> Ranking:
    data = Ranking(candidates={})
    assert data.candidates is not None
    ids: dict[str, str] = {}
    for line, row in read_jsonl(file):
        query = f"q{line}"
        data.queries[query] = text_field(row, "query", file, line)
        grades: dict[str, int] = {}
        for name, grade in (("positive", 1), ("negative", 0)):
            for text in text_list_field(row, name, file, line):
                # Equal texts are one document; a text in both lists is a positive.
                document = ids.setdefault(text, f"d{len(ids)}")
                data.documents[document] = "", text
                grades.setdefault(document, grade)
        if 1 not in grades.values():
            raise CareError(f"{file}, line {line}: 'positive' is empty; add one or remove the row")
        data.relevant[query] = grades
        data.candidates[query] = list(grades)
    if not data.queries:
        raise CareError(f"{file}: has no rows")
    return data


def _read_sts(file: Path) -> Pairs:
    data = Pairs()
    for line, row in read_jsonl(file):
        score = row.get("score")
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise CareError(f"{file}, line {line}: 'score' must be a finite number")
        data.first.append(text_field(row, "sentence1", file, line))
        data.second.append(text_field(row, "sentence2", file, line))
        data.scores.append(float(score))
    if len(set(data.scores)) < 2:
        raise CareError(
            f"{file}: correlation needs at least two different scores, found {len(set(data.scores))}"
        )
    return data
