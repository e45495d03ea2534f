"""Reads the data sets and texts of an export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from care_accel.errors import CareError
from care_accel.eval.data.reading import Ranking
from care_accel.eval.folder import DataSet, find_sets
from care_accel.files import read_jsonl, read_lines, text_field


def read_texts(file: Path) -> list[str]:
    """Read texts: JSON lines with ``text`` (and ``title``, prepended), or one text per line; plain or gzip.

    Raises
    ------
    CareError
        A line lacks the field, or the file has no texts.
    """
    if file.name.removesuffix(".gz").endswith(".jsonl"):
        texts = []
        for line, row in read_jsonl(file):
            title = text_field(row, "title", file, line) if row.get("title") is not None else ""
            texts.append(join(title, text_field(row, "text", file, line)))
    else:
        texts = [line.rstrip("\r\n") for _, line in read_lines(file)]
    if not texts:
        raise CareError(f"{file}: has no texts; give one text per line, or JSON lines with 'text'")
    return texts


def join(title: str, text: str) -> str:
    """Join title and text of a document, as in the evaluation."""
    return f"{title} {text}".strip() if title else text


@dataclass(frozen=True)
class DevSet:
    """A retrieval set for the accuracy gate.

    Attributes
    ----------
    name : str
        With its split: ``retrieval/cmedir, dev``.
    queries, documents : dict of id to str
    relevant : dict of query to dict of document to grade
    """

    name: str
    queries: dict[str, str]
    documents: dict[str, str]
    relevant: dict[str, dict[str, int]]

    @classmethod
    def read(cls, data_dir: Path, task: str | None, split: str | None) -> DevSet:
        """Read a retrieval set from a data folder.

        Parameters
        ----------
        data_dir : Path
        task : str, optional
            Such as ``retrieval/cmedir``; the first retrieval set by default.
        split : str, optional
            By default ``dev`` if there is one, else ``test``.

        Raises
        ------
        CareError
            There is no such data set or split, or a row is invalid.
        """
        sets = {s.name: s for s in find_sets(data_dir) if s.kind == "retrieval"}
        if task is not None and task not in sets:
            known = ", ".join(sets) or "none"
            raise CareError(f"{data_dir}: no data set {task!r}; available retrieval sets: {known}")
        if not sets:
            raise CareError(f"{data_dir}: no retrieval set; the accuracy gate needs one")
        source: DataSet = sets[task] if task is not None else next(iter(sets.values()))
        split = split or ("dev" if "dev" in source.splits else "test")
        data = source.read(split)
        assert isinstance(data, Ranking)
        documents = {key: join(*both) for key, both in data.documents.items()}
        return cls(f"{source.name}, {split}", data.queries, documents, data.relevant)
