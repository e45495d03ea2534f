"""Words to hits: BM25 over characters and pairs of characters, which needs no Chinese word list."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from care_accel.errors import CareError

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
        try:
            import bm25s
        except ImportError:
            raise CareError("BM25 needs the package bm25s: pip install 'care-accel[eval]'") from None
        logging.getLogger("bm25s").setLevel(logging.WARNING)  # importing it sets DEBUG
        self._size = len(documents)
        self._index = bm25s.BM25(k1=k1, b=b, method="lucene")
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
        """
        best = np.full((len(queries), k), -np.inf, dtype=np.float32)
        ids = np.full((len(queries), k), -1, dtype=np.int64)
        for row, query in enumerate(queries):
            scores = self.scores(query)
            found = np.flatnonzero(scores)
            order = found[np.argsort(-scores[found], kind="stable")][:k]
            best[row, : len(order)] = scores[order]
            ids[row, : len(order)] = order
        return best, ids
