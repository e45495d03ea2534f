"""Reads the queries, documents and qrels of a configuration; writes files that only their owner can read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from care_accel.curation.config import Config
from care_accel.errors import CareError
from care_accel.eval.data.layout import find_parts, one_split
from care_accel.eval.data.reading import read_documents, read_judgements, read_queries
from care_accel.files import write_text


@dataclass
class Data:
    """Queries, documents and qrels of a data set.

    Attributes
    ----------
    queries : dict of str to str
    documents : dict of str to str
        Title and text, joined by a space.
    labels : dict of query to dict of document to grade
        Empty without a split.
    """

    queries: dict[str, str]
    documents: dict[str, str]
    labels: dict[str, dict[str, int]] = field(default_factory=dict)


def read_data(config: Config) -> Data:
    """Read the data folder of a configuration.

    Raises
    ------
    CareError
        No folder is configured, a file is missing or a row is invalid; file and line are named.
    """
    if config.data is None:
        raise CareError("data is not configured; set it to a folder with corpus.jsonl and queries.jsonl")
    folder = Path(config.data)
    parts = find_parts(folder) if folder.is_dir() else {}
    files = {name: one_split(parts.get(name, {}), config.split or "") for name in ("corpus", "queries")}
    for name, found in files.items():
        if not found:
            raise CareError(f"{folder / name}.jsonl: no such file, nor .jsonl.gz, nor in another format")
    documents = {
        key: f"{title} {text}".strip() for key, (title, text) in read_documents(files["corpus"]).items()
    }
    queries = read_queries(files["queries"])
    labels: dict[str, dict[str, int]] = {}
    if config.split is not None:
        labels = read_judgements(qrels_files(config), queries, documents)
        queries = {query: text for query, text in queries.items() if query in labels}
    if not queries or not documents:
        raise CareError(f"{folder}: contains no {'query' if not queries else 'document'}")
    return Data(queries, documents, labels)


def qrels_files(config: Config) -> list[Path]:
    """Return the files of the qrels: one, unless they are in shards.

    Raises
    ------
    CareError
        Data or split is not configured, or the file is missing.
    """
    if config.data is None or config.split is None:
        raise CareError("this step needs qrels; set data and split in the configuration")
    folder = Path(config.data)
    parts = find_parts(folder) if folder.is_dir() else {}
    found = parts.get("qrels", {}).get(config.split, [])
    if not found:
        file = folder / "qrels" / f"{config.split}.tsv"
        raise CareError(f"{file}: no such file, nor .tsv.gz, nor in another format")
    return found


def write_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines, readable by their owner only."""
    write_text(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), private=True)


def write_qrels(file: Path, labels: Mapping[str, Mapping[str, int]]) -> None:
    """Write qrels as tab-separated ``query-id``, ``corpus-id`` and ``score`` with a header."""
    rows = [
        f"{query}\t{document}\t{grade}\n" for query, row in labels.items() for document, grade in row.items()
    ]
    write_text(file, "".join(["query-id\tcorpus-id\tscore\n", *rows]), private=True)
