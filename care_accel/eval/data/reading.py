"""Reads queries, documents, judgements and pairs from their files; errors give file and line."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from care_accel.errors import CareError
from care_accel.eval.data.rows import (
    ID_NAMES,
    TABLES,
    Ids,
    Row,
    ending,
    grade_of,
    number_of,
    read_rows,
    text_of,
    texts_of,
)
from care_accel.files import read_lines

Files = Path | Sequence[Path]

# Names of the columns of judgements: of BEIR and mteb, of ir_datasets, and of others that are common.
_QUERY = ("query-id", "query_id", "qid")
_DOCUMENT = ("corpus-id", "corpus_id", "doc_id", "docid", "pid")
_SCORE = ("score", "relevance", "rel", "grade", "label")
_CANDIDATES = ("corpus-ids", "corpus_ids")
_TEXT_TABLE = {2: ("id", "text")}
_DOCUMENT_TABLE = {**_TEXT_TABLE, 3: ("id", "title", "text")}


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


def read_documents(files: Files) -> dict[str, tuple[str, str]]:
    """Read a corpus: title and text by id.

    Parameters
    ----------
    files : Path or sequence of Path
        JSON lines or Parquet with ``_id`` or ``id``, ``text`` and perhaps ``title``; or text with tabs: id, text, or id, title,
        text.

    Raises
    ------
    CareError
        A row is invalid; the message gives file and line.
    """
    documents: dict[str, tuple[str, str]] = {}
    for key, place, row in _identified(files, documents, _DOCUMENT_TABLE):
        title = text_of(row, "title", place) if row.get("title") is not None else ""
        documents[key] = title, text_of(row, "text", place)
    return documents


def read_queries(files: Files) -> dict[str, str]:
    """Read queries: text by id; files and errors as in `read_documents`, without titles."""
    queries: dict[str, str] = {}
    for key, place, row in _identified(files, queries, _TEXT_TABLE):
        queries[key] = text_of(row, "text", place)
    return queries


def read_judgements(
    files: Files, queries: Container[str], documents: Container[str]
) -> dict[str, dict[str, int]]:
    """Read relevance judgements (qrels): grade by query and document.

    Parameters
    ----------
    files : Path or sequence of Path
        Text with three columns separated by tabs, perhaps with a header (BEIR): query, document, score; or with four, by
        tabs or spaces (TREC): query, anything, document, score. JSON lines or Parquet with ``query-id``, ``corpus-id`` and
        ``score``. Scores are whole numbers, also written ``1.0``.
    queries, documents : container of str
        The known ids.

    Raises
    ------
    CareError
        A row is invalid, contradicts another, or has an unknown query or document id.
    """
    grades: dict[str, dict[str, int]] = {}
    for place, query, document, grade in _judgements(files):
        if query not in queries:
            raise CareError(f"{place}: query {query!r} is not among the queries")
        if document not in documents:
            raise CareError(f"{place}: document {document!r} is not in the corpus")
        if grades.setdefault(query, {}).setdefault(document, grade) != grade:
            raise CareError(
                f"{place}: query {query!r} and document {document!r} have a different score in an earlier line"
            )
    return grades


def read_ranking(
    corpus: Files, queries: Files, qrels: Files, top_ranked: Files | None = None, *, rerank: bool = False
) -> Ranking:
    """Read a data set with a corpus; of the queries, those that are judged.

    Parameters
    ----------
    corpus, queries, qrels : Path or sequence of Path
    top_ranked : Path or sequence of Path, optional
        The candidates of each query: ``query-id`` and the list ``corpus-ids``.
    rerank : bool
        The documents of ``top_ranked``, or else the judged ones, are the candidates.

    Raises
    ------
    CareError
        A row is invalid, or no document is relevant.
    """
    documents, texts = read_documents(corpus), read_queries(queries)
    relevant = read_judgements(qrels, texts, documents)
    if not any(grade > 0 for grades in relevant.values() for grade in grades.values()):
        raise CareError(f"{_paths(qrels)[0]}: no score above 0; add relevant documents")
    judged = {query: text for query, text in texts.items() if query in relevant}
    candidates = None
    if rerank:
        candidates = {query: list(grades) for query, grades in relevant.items()}
        if top_ranked is not None:
            candidates = _read_candidates(top_ranked, judged, documents)
    return Ranking(judged, documents, relevant, candidates)


def read_lists(files: Files) -> Ranking:
    """Read a reranking set: rows of ``query`` and the lists ``positive`` and ``negative``.

    Equal texts are one document; a text in both lists is a positive.

    Raises
    ------
    CareError
        A row is invalid, or there is none.
    """
    data = Ranking(candidates={})
    assert data.candidates is not None
    ids: dict[str, str] = {}
    for number, place, row in _numbered(files):
        query = f"q{number}"
        data.queries[query] = text_of(row, "query", place)
        grades: dict[str, int] = {}
        for name, grade in (("positive", 1), ("negative", 0)):
            for text in texts_of(row, name, place):
                document = ids.setdefault(text, f"d{len(ids)}")
                data.documents[document] = "", text
                grades.setdefault(document, grade)
        if 1 not in grades.values():
            raise CareError(f"{place}: 'positive' is empty; add one or remove the row")
        data.relevant[query] = grades
        data.candidates[query] = list(grades)
    if not data.queries:
        raise CareError(f"{_paths(files)[0]}: has no rows")
    return data


def read_pairs(files: Files) -> Pairs:
    """Read an STS set: rows of ``sentence1``, ``sentence2`` and ``score``.

    Raises
    ------
    CareError
        A row is invalid, or all scores are the same.
    """
    data = Pairs()
    for _, place, row in _numbered(files):
        data.scores.append(number_of(row, "score", place))
        data.first.append(text_of(row, "sentence1", place))
        data.second.append(text_of(row, "sentence2", place))
    if len(set(data.scores)) < 2:
        raise CareError(
            f"{_paths(files)[0]}: correlation needs at least two different scores, found {len(set(data.scores))}"
        )
    return data


def _paths(files: Files) -> Sequence[Path]:
    return [files] if isinstance(files, Path) else files


def _identified(
    files: Files, known: Container[str], columns: Mapping[int, tuple[str, ...]]
) -> Iterator[tuple[str, str, Row]]:
    """Yield new ids, places and rows."""
    for file in _paths(files):
        ids = Ids()
        for place, row in read_rows(file, columns):
            key = ids.read(row, ID_NAMES, place)
            if key in known:
                raise CareError(f"{place}: duplicate _id {key!r}")
            yield key, place, row


def _numbered(files: Files) -> Iterator[tuple[int, str, Row]]:
    """Yield rows with their numbers: of their line, in a second file after those of the first."""
    last = 0
    for file in _paths(files):
        before = last
        for place, row in read_rows(file):
            last = before + int(place.rpartition(" ")[2])
            yield last, place, row


def _judgements(files: Files) -> Iterator[tuple[str, str, str, int]]:
    for file in _paths(files):
        if ending(file) in TABLES:
            yield from _text_judgements(file)
            continue
        of_query, of_document = Ids(), Ids()
        for place, row in read_rows(file):
            score = next((row[name] for name in _SCORE if name in row), None)
            yield (
                place,
                of_query.read(row, _QUERY, place),
                of_document.read(row, _DOCUMENT, place),
                grade_of(score, place),
            )


def _text_judgements(file: Path) -> Iterator[tuple[str, str, str, int]]:
    """Read qrels of BEIR's form, three columns separated by tabs, or TREC's, four; the first line says which."""
    width, columns = 0, (0, 0, 0)
    for line, text in read_lines(file):
        bare = text.rstrip("\r\n")
        cells = bare.split("\t") if "\t" in bare else bare.split()
        place = f"{file}, line {line}"
        if width and len(cells) != width:
            raise CareError(f"{place}: {len(cells)} columns; the lines before it have {width}")
        if not width:
            if len(cells) != 4 and not (len(cells) == 3 and "\t" in bare):
                raise CareError(
                    f"{place}: {len(cells)} columns; expected query-id, corpus-id and score separated by tabs, or TREC's "
                    "four columns: query, 0, document and score"
                )
            width = len(cells)
            named = _named_columns(cells)
            columns = named or ((0, 1, 2) if width == 3 else (0, 2, 3))
            if named is not None:
                continue
        query, document, score = (cells[i] for i in columns)
        yield place, query, document, grade_of(score, place)


def _named_columns(cells: list[str]) -> tuple[int, int, int] | None:
    """Return where a header has query, document and score; None if the line is no header."""
    names = [cell.strip().lower() for cell in cells]
    if names[-1] not in _SCORE and not {*names} & {*_QUERY}:
        return None
    query, document, score = (
        next((i for i, name in enumerate(names) if name in known), None)
        for known in (_QUERY, _DOCUMENT, _SCORE)
    )
    if query is None or document is None or score is None:  # other names, in the usual order
        return (0, 1, 2) if len(names) == 3 else (0, 2, 3)
    return query, document, score


def _read_candidates(
    files: Files, queries: dict[str, str], documents: Container[str]
) -> dict[str, list[str]]:
    candidates: dict[str, list[str]] = {}
    for file in _paths(files):
        of_query = Ids()
        for place, row in read_rows(file):
            query = of_query.read(row, _QUERY, place)
            name = next((name for name in _CANDIDATES if name in row), _CANDIDATES[0])
            keys = row.get(name)
            if not isinstance(keys, list):
                raise CareError(f"{place}: {name!r} must be a list of ids")
            of_document = Ids()
            found = [of_document.read({name: key}, (name,), place) for key in keys]
            for key in found:
                if key not in documents:
                    raise CareError(f"{place}: document {key!r} is not in the corpus")
            if query in queries:
                candidates[query] = found
    for query in queries:
        if query not in candidates:
            raise CareError(f"{_paths(files)[0]}: has no candidates for query {query!r}")
    return candidates
