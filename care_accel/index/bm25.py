"""Words to hits: BM25 over characters and pairs of characters, which needs no Chinese word list."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from care_accel.errors import CareError, require_count
from care_accel.files import check_format, read_json, replaced_folder, write_json

MANIFEST = "words.json"
FORMAT = 1
# Where bm25s puts its files.
_WORDS = "bm25s"

_SPACE = re.compile(r"\s+")


def character_grams(text: str) -> list[str]:
    """Return the characters of a text and every two neighbours, folded to NFKC and lower case."""
    folded = _SPACE.sub("", unicodedata.normalize("NFKC", text).lower())
    return [*folded, *(folded[i : i + 2] for i in range(len(folded) - 1))]


class BM25Index:
    """Documents by their words, with the results contract of `ExactIndex`.

    Parameters
    ----------
    documents : sequence of str
    k1, b : float
        Saturation of term frequency, and how far a document's length counts.

    Notes
    -----
    Scores are those of Robertson et al. with Lucene's inverse document frequency, computed by bm25s.
    """

    def __init__(self, documents: Sequence[str], *, k1: float = 1.2, b: float = 0.75) -> None:
        self._size = len(documents)
        self._index = _library().BM25(k1=k1, b=b, method="lucene")
        tokens = [character_grams(text) for text in documents]
        self._vocabulary = {gram for row in tokens for gram in row}
        if self._vocabulary:
            self._index.index(tokens, show_progress=False)

    def __len__(self) -> int:
        return self._size

    def scores(self, query: str) -> NDArray[np.float32]:
        """Return the score of every document, float32 ``[len(self)]``; 0 where no word is shared."""
        grams = [gram for gram in character_grams(query) if gram in self._vocabulary]
        if not grams:
            return np.zeros(self._size, dtype=np.float32)
        return np.asarray(self._index.get_scores(grams), dtype=np.float32)

    def search(self, queries: Sequence[str], k: int = 10) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the k best documents of each query.

        Parameters
        ----------
        queries : sequence of str
        k : int

        Returns
        -------
        scores : numpy.ndarray
            float32 ``[n, k]``, descending; ``-inf`` where fewer than k documents share a word.
        ids : numpy.ndarray
            int64 ``[n, k]``, ascending among equal scores; -1 beside ``-inf``.

        Raises
        ------
        CareError
            k is below 1.
        """
        require_count("k", k)
        best = np.full((len(queries), k), -np.inf, dtype=np.float32)
        ids = np.full((len(queries), k), -1, dtype=np.int64)
        for row, query in enumerate(queries):
            scores = self.scores(query)
            found = np.flatnonzero(scores)
            order = found[np.argsort(-scores[found], kind="stable")][:k]
            best[row, : len(order)] = scores[order]
            ids[row, : len(order)] = order
        return best, ids

    def save(self, folder: str | Path) -> None:
        """Write the index as one folder; see `ExactIndex.save`.

        Raises
        ------
        CareError
            The folder exists and holds something else.
        """
        with replaced_folder(Path(folder), MANIFEST, [_WORDS]) as built:
            if self._vocabulary:
                self._index.save(built / _WORDS, show_progress=False)
            files = {file.name: file.stat().st_size for file in (built / _WORDS).glob("*")}
            write_json(built / MANIFEST, {"format": FORMAT, "count": self._size, "bytes": files})

    @classmethod
    def load(cls, folder: str | Path) -> BM25Index:
        """Open a saved index.

        Raises
        ------
        CareError
            The folder holds no such index, or one that is not whole.
        """
        file = Path(folder) / MANIFEST
        manifest = read_json(file, "a saved index of words has one")
        check_format(manifest, file, FORMAT)
        index = cls([])
        index._size = manifest["count"]
        for name, size in manifest["bytes"].items():
            part = Path(folder) / _WORDS / name
            if not part.is_file() or part.stat().st_size != size:
                raise CareError(f"{part}: is missing or has not the {size} bytes of its manifest; save anew")
        if manifest["bytes"]:
            index._index = _library().BM25.load(Path(folder) / _WORDS, show_progress=False)
            index._vocabulary = set(index._index.vocab_dict)
        return index


def _library() -> Any:
    try:
        import bm25s
    except ImportError:
        raise CareError("BM25 needs the package bm25s: pip install 'care-accel[eval]'") from None
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # importing it sets DEBUG
    return bm25s
