"""Lexical search: BM25 over characters and character bigrams, which needs no Chinese word segmentation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from care_accel.errors import CareError
from care_accel.files import check_format, read_json, write_json
from care_accel.folders import replaced_folder
from care_accel.index.lexical.grams import character_grams
from care_accel.index.lexical.search import LexicalSearch

MANIFEST = "bm25.json"
# Its name in care_accel 0.1.0.
OLD_MANIFEST = "words.json"
FORMAT = 1
# The folder of the files that bm25s writes.
_BM25S = "bm25s"


class BM25Index(LexicalSearch):
    """A lexical index: BM25 scores of documents, with results like those of `ExactIndex`.

    Parameters
    ----------
    documents : sequence of str
    k1, b : float
        BM25's term frequency saturation and length normalisation.

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
        """Return the score of every document, float32 ``[len(self)]``; 0 if it shares no term with the query."""
        grams = [gram for gram in character_grams(query) if gram in self._vocabulary]
        if not grams:
            return np.zeros(self._size, dtype=np.float32)
        return np.asarray(self._index.get_scores(grams), dtype=np.float32)

    def save(self, folder: str | Path) -> None:
        """Write the index to a folder; see `ExactIndex.save`.

        Raises
        ------
        CareError
            The folder exists and contains something else.
        """
        with replaced_folder(Path(folder), MANIFEST, [_BM25S], old_manifests=[OLD_MANIFEST]) as built:
            if self._vocabulary:
                self._index.save(built / _BM25S, show_progress=False)
            files = {file.name: file.stat().st_size for file in (built / _BM25S).glob("*")}
            write_json(built / MANIFEST, {"format": FORMAT, "count": self._size, "bytes": files})

    @classmethod
    def load(cls, folder: str | Path) -> BM25Index:
        """Open a saved index.

        Raises
        ------
        CareError
            The folder contains no such index, or a damaged one.
        """
        file, old = Path(folder) / MANIFEST, Path(folder) / OLD_MANIFEST
        if old.is_file() and not file.is_file():
            file = old
        manifest = read_json(file, "a saved BM25 index has one")
        check_format(manifest, file, FORMAT)
        index = cls([])
        index._size = manifest["count"]
        for name, size in manifest["bytes"].items():
            part = Path(folder) / _BM25S / name
            if not part.is_file() or part.stat().st_size != size:
                raise CareError(f"{part}: is missing or does not have {size} bytes; save the index again")
        if manifest["bytes"]:
            index._index = _library().BM25.load(Path(folder) / _BM25S, show_progress=False)
            index._vocabulary = set(index._index.vocab_dict)
        return index


def _library() -> Any:
    try:
        import bm25s
    except ImportError:
        raise CareError("BM25 needs the package bm25s: pip install 'care-accel[eval]'") from None
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # importing it sets DEBUG
    return bm25s
