"""The texts that an export is measured on, or keeps the tokens of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from care_accel.errors import CareError
from care_accel.eval.folder import DataSet, Ranking, find_sets
from care_accel.files import read_jsonl, read_lines, text_field


def read_texts(file: Path) -> list[str]:
    """Read a file of texts: JSON lines with ``text`` (and ``title``, put before it) or a text a line; gzip or plain.

    Raises
    ------
    CareError
        A line has no such field, or the file has no text.
    """
    if file.name.removesuffix(".gz").endswith(".jsonl"):
        texts = []
        for line, row in read_jsonl(file):
            title = text_field(row, "title", file, line) if row.get("title") is not None else ""
            texts.append(join(title, text_field(row, "text", file, line)))
    else:
        texts = [line.rstrip("\r\n") for _, line in read_lines(file)]
    if not texts:
        raise CareError(f"{file}: holds no text; give a text a line, or JSON lines with 'text'")
    return texts


def join(title: str, text: str) -> str:
    """Return what is encoded of a document, as an evaluation joins it."""
    return f"{title} {text}".strip() if title else text


@dataclass(frozen=True)
class DevSet:
    """A retrieval set that an encoder is measured on.

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
        """Read a set of a data folder.

        Parameters
        ----------
        data_dir : Path
        task : str, optional
            ``retrieval/cmedir``; the first retrieval set by default.
        split : str, optional
            ``dev`` where there is one, else ``test``, by default.

        Raises
        ------
        CareError
            There is no such set or split, or a row is broken.
        """
        sets = {s.name: s for s in find_sets(data_dir) if s.kind == "retrieval"}
        if task is not None and task not in sets:
            raise CareError(f"{data_dir}: no set {task!r}; retrieval sets here: {', '.join(sets) or 'none'}")
        if not sets:
            raise CareError(f"{data_dir}: no retrieval set, which an export is measured on")
        found: DataSet = sets[task] if task is not None else next(iter(sets.values()))
        split = split or ("dev" if "dev" in found.splits else "test")
        data = found.read(split)
        assert isinstance(data, Ranking)
        documents = {key: join(*both) for key, both in data.documents.items()}
        return cls(f"{found.name}, {split}", data.queries, documents, data.relevant)
