"""The data sets of a data folder; they are read by split, with errors that give file and line.

Layout::

    retrieval/<name>/corpus.jsonl      {"_id", "title", "text"}
    retrieval/<name>/queries.jsonl     {"_id", "text"}
    retrieval/<name>/qrels/<split>.tsv query-id, corpus-id, score; or TREC's four columns
    reranking/<name>/<split>.jsonl     {"query", "positive": [...], "negative": [...]}
    sts/<name>/<split>.jsonl           {"sentence1", "sentence2", "score"}

The same as Parquet, and JSON lines and text also packed with gzip or zstd. Data sets of mteb's layout, as the hub's cache or a
download holds them, in one of these three folders, or alone. ``docs/evaluation.md`` has the list.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from care_accel.errors import CareError
from care_accel.eval.data.layout import Parts, find_parts, one_split, set_name
from care_accel.eval.data.reading import Pairs, Ranking, read_lists, read_pairs, read_ranking
from care_accel.eval.data.rows import read_rows

Kind = Literal["retrieval", "reranking", "sts"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_LABELS = {"retrieval": "qrels", "reranking": "rows", "sts": "rows"}
_FILES = {"corpus": "corpus.jsonl", "queries": "queries.jsonl", "qrels": "qrels/{}.tsv", "rows": "{}.jsonl"}


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
        """``retrieval/cmedir``: the kind, and the folder's name."""
        return f"{self.kind}/{set_name(self.folder)}"

    @property
    def splits(self) -> list[str]:
        """The splits that have labels."""
        parts = find_parts(self.folder) if self.folder.is_dir() else {}
        return sorted(parts.get(self._labels(parts), {}))

    def files(self, split: str) -> list[Path]:
        """Return the files of a split.

        Raises
        ------
        CareError
            A file is missing; the message names it.
        """
        return [file for files in self._parts(split).values() for file in files]

    def digest(self, split: str) -> str:
        """Return a hash of a split's files, which identifies the data of a result."""
        total = hashlib.sha256()
        for file in self.files(split):
            with file.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
        return total.hexdigest()

    def read(self, split: str) -> Ranking | Pairs:
        """Read a split.

        Raises
        ------
        CareError
            A file is missing or a row is invalid; the message gives file and line.
        """
        parts = self._parts(split)
        if "rows" not in parts:
            return read_ranking(**parts, rerank=self.kind == "reranking")
        return read_lists(parts["rows"]) if self.kind == "reranking" else read_pairs(parts["rows"])

    def _labels(self, parts: Parts) -> str:
        """Return the part with the labels: reranking sets have rows, or a corpus and judgements."""
        return "qrels" if self.kind == "reranking" and "corpus" in parts else _LABELS[self.kind]

    def _parts(self, split: str) -> dict[str, list[Path]]:
        parts = find_parts(self.folder) if self.folder.is_dir() else {}
        labels = self._labels(parts)
        found = {}
        for name in ("corpus", "queries", "qrels") if labels == "qrels" else ("rows",):
            splits = parts.get(name, {})
            found[name] = splits.get(split, []) if name == labels else one_split(splits, split)
            if not found[name]:
                file = self.folder / _FILES[name].format(split)
                known = ", ".join(sorted(parts.get(labels, {})))
                hint = f"; available splits: {known} (--split)" if known else ""
                raise CareError(f"{file}: no such file, plain, .gz or .zst, nor in another format{hint}")
        if self.kind == "reranking" and "top_ranked" in parts:
            found["top_ranked"] = one_split(parts["top_ranked"], split)
        return found


def find_sets(data_dir: Path) -> list[DataSet]:
    """Return the data sets of a data folder, by kind and name.

    Parameters
    ----------
    data_dir : Path
        A folder with ``retrieval``, ``reranking`` and ``sts``; or a data set, or a folder of data sets, whose kinds are told
        from their files.

    Raises
    ------
    CareError
        The folder is missing or has no data set.
    """
    if not data_dir.is_dir():
        raise CareError(
            f"{data_dir}: no such folder; --data-dir must have retrieval/, reranking/ or sts/, or be a data set"
        )
    sets = [
        DataSet(kind, folder)
        for kind in KINDS
        for folder in sorted((data_dir / kind).glob("*"))
        if folder.is_dir()
    ]
    if not sets:
        # The hub's cache holds models too.
        inside = sorted(
            e for e in data_dir.iterdir() if e.is_dir() and not e.name.startswith((".", "models--"))
        )
        folders = [data_dir] if _kind(data_dir) is not None else inside
        sets = [DataSet(kind, folder) for folder in folders if (kind := _kind(folder)) is not None]
        sets.sort(key=lambda one: KINDS.index(one.kind))
    if not sets:
        raise CareError(
            f"{data_dir}: no data set; put data sets in retrieval/, reranking/ or sts/, or give the folder of one"
        )
    return sets


def _kind(folder: Path) -> Kind | None:
    """Return what a data set of any layout is for; None if the folder is none."""
    parts = find_parts(folder)
    if {"corpus", "queries", "qrels"} <= parts.keys():
        return "reranking" if "top_ranked" in parts else "retrieval"
    if (splits := parts.get("rows")) is None:
        return None
    columns = next(({*row} for _, row in read_rows(next(iter(splits.values()))[0])), set())
    if {"query", "positive", "negative"} <= columns:
        return "reranking"
    return "sts" if {"sentence1", "sentence2", "score"} <= columns else None
