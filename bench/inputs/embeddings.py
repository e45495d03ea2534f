"""Encode all real texts of a data folder by care-mini: ``CARE_DATA=folder python -m bench.inputs.embeddings FOLDER``.

Writes ``documents.npy`` and ``queries.npy`` for ``--embeddings`` of bench/approximate/test_approximate.py. Every text is there once: documents are the
texts of all retrieval, reranking, training, similarity and unlabelled sets that are not queries of one. It takes half an hour or more.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from bench.inputs import texts
from care_accel import DualEncoder
from care_accel.files import read_jsonl

QUERIES = {"query"}
DOCUMENTS = ("pos", "neg", "positive", "negative", "long_query", "sentence1", "sentence2", "text")
_AT_A_TIME = 4096


def distinct(data: Path) -> tuple[list[str], list[str]]:
    """Return documents and queries of a data folder, each text once."""
    documents: dict[str, None] = {}
    queries: dict[str, None] = {}
    for file in sorted(data.rglob("*.jsonl*")):
        asked = QUERIES | ({"text"} if file.name.startswith("queries.") else set())
        for _, row in read_jsonl(file):
            for name in asked:
                queries.update(dict.fromkeys(_texts(row.get(name))))
            title = f"{row['title']} " if row.get("title") else ""
            for name in DOCUMENTS:
                if name not in asked:
                    before = title if name == "text" else ""
                    documents.update(dict.fromkeys(f"{before}{text}" for text in _texts(row.get(name))))
    return [text for text in documents if text not in queries], list(queries)


def _texts(value: str | Iterable[str] | None) -> Iterator[str]:
    some = [value] if isinstance(value, str) else value or ()
    return (text for one in some if (text := one.strip()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    documents, queries = distinct(texts.data_folder())
    print(f"{len(documents):,} documents, {len(queries):,} queries", flush=True)
    model = DualEncoder.from_pretrained("care-mini", dtype="int8")
    np.save(folder / "queries.npy", model.encode_query(queries, batch_size=64))
    made = [
        model.encode_document(documents[first : first + _AT_A_TIME], batch_size=64, show_progress=True)
        for first in range(0, len(documents), _AT_A_TIME)
    ]
    np.save(folder / "documents.npy", np.concatenate(made))


if __name__ == "__main__":
    main()
