"""What people write by hand instead of a collection: faiss's flat index for vectors, SQLite for ids, texts and fields."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

K = 10
# Number, id and text.
Document = tuple[int, str, str]


def faiss() -> Any:
    """Return faiss; skip where it is missing."""
    return pytest.importorskip("faiss", reason="the peer faiss is not installed (extra bench)")


class ByHand:
    """Vectors in memory and in a file, documents in a database.

    Parameters
    ----------
    folder : Path
    index : faiss.Index
        Its ids are the numbers of the documents.
    """

    def __init__(self, folder: Path, index: Any) -> None:
        self.folder = folder
        self.index = index
        self.database = sqlite3.connect(folder / "documents.db")

    @classmethod
    def create(cls, folder: Path, index: Any) -> ByHand:
        """Create an empty database beside an index."""
        folder.mkdir(parents=True, exist_ok=True)
        made = cls(folder, index)
        made.database.execute(
            "CREATE TABLE documents (number INTEGER PRIMARY KEY, id TEXT UNIQUE, text TEXT)"
        )
        return made

    @classmethod
    def open(cls, folder: Path, *, mapped: bool) -> ByHand:
        """Open what `write` has written."""
        import faiss

        flags = [faiss.IO_FLAG_MMAP_IFC] if mapped else []
        return cls(folder, faiss.read_index(str(folder / "vectors.faiss"), *flags))

    def store(self, documents: Iterable[Document]) -> None:
        """Write documents to the database, over those of the same numbers."""
        with self.database:
            self.database.executemany("INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", documents)

    def replace(self, documents: Sequence[Document], vectors: NDArray[np.float32]) -> None:
        """Replace documents; the index is an IndexIDMap2 then."""
        numbers = np.array([number for number, _, _ in documents])
        self.index.remove_ids(numbers)
        self.index.add_with_ids(vectors, numbers)
        self.store(documents)

    def write(self) -> None:
        """Write the index to its file."""
        import faiss

        faiss.write_index(self.index, str(self.folder / "vectors.faiss"))

    def search(self, query: NDArray[np.float32]) -> list[tuple[str, str]]:
        """Return ids and texts of the best documents."""
        numbers = self.index.search(query, K)[1][0].tolist()
        marks = ",".join("?" * len(numbers))
        found = self.database.execute(
            f"SELECT number, id, text FROM documents WHERE number IN ({marks})", numbers
        )
        rows = {number: (identifier, text) for number, identifier, text in found}
        return [rows[number] for number in numbers if number in rows]  # -1 where there are fewer
