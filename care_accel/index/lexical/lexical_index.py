"""A lexical index of documents that come and go: BM25 scores of those that are there, without building it again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from care_accel.errors import CareError
from care_accel.index.lexical import files as lexical_files
from care_accel.index.lexical.grams import packed_grams
from care_accel.index.lexical.parts import Part, extended, joined
from care_accel.index.lexical.search import LexicalSearch
from care_accel.index.lexical.statistics import WordStatistics


class LexicalIndex(LexicalSearch):
    """BM25 over characters and character pairs, of documents that can be added and removed.

    It never changes: `with_added`, `with_removed` and `taken` return another index, which shares what is the same with this
    one. A document is named by its position, the number of documents that were added before it; removed documents keep
    theirs, until `taken` numbers the others anew.

    Parameters
    ----------
    documents : iterable of str
    k1, b : float
        BM25's term frequency saturation and length normalisation.

    Attributes
    ----------
    k1, b : float
    alive : int
        Number of documents that are not removed.

    Notes
    -----
    Scores are those of Robertson et al. with Lucene's inverse document frequency, over the documents that are not removed.
    They depend on nothing else: an index after any changes gives each document the same score, to the last bit, as a new
    index of what is left.
    """

    def __init__(self, documents: Iterable[str] = (), *, k1: float = 1.2, b: float = 0.75) -> None:
        self.k1 = k1
        self.b = b
        self._set_parts(extended((), documents))

    def _set_parts(self, parts: Iterable[Part]) -> None:
        self._parts = tuple(parts)
        self._starts = list(accumulate((len(part.removed) for part in self._parts), initial=0))
        self.alive = sum(part.alive for part in self._parts)
        self._norms: tuple[float, list[NDArray[np.float32]]] | None = None

    def _of(self, parts: Iterable[Part]) -> LexicalIndex:
        """Return an index of other parts."""
        other = LexicalIndex(k1=self.k1, b=self.b)
        other._set_parts(parts)
        return other

    def __len__(self) -> int:
        """Return the number of positions: that of all documents, removed ones too."""
        return self._starts[-1]

    @property
    def removed(self) -> NDArray[np.bool_]:
        """Mask of the removed documents, bool ``[len(self)]``."""
        return np.concatenate([np.zeros(0, dtype=bool), *(part.removed for part in self._parts)])

    def with_added(self, documents: Iterable[str]) -> LexicalIndex:
        """Return an index with more documents, behind the others.

        Parameters
        ----------
        documents : iterable of str
        """
        return self._of(extended(self._parts, documents))

    def with_removed(self, positions: ArrayLike) -> LexicalIndex:
        """Return an index without some documents.

        Parameters
        ----------
        positions : array_like
            Integers ``[n]`` in any order; documents may be there twice, or be removed already.

        Raises
        ------
        CareError
            A document does not exist.
        """
        chosen = self._checked(positions)
        return self._of(
            part.without(own) if len(own) else part
            for part, own in zip(self._parts, self._split(np.unique(chosen)), strict=True)
        )

    def taken(self, positions: ArrayLike) -> LexicalIndex:
        """Return an index of only some documents, in one part, numbered anew.

        Parameters
        ----------
        positions : array_like
            Integers ``[n]``, ascending. Removed ones stay removed.

        Raises
        ------
        CareError
            A document does not exist, or the positions do not ascend.
        """
        chosen = self._checked(positions)
        if (np.diff(chosen) <= 0).any():
            raise CareError("positions must ascend; sort them, and name each document once")
        kept = [part.taken(own) for part, own in zip(self._parts, self._split(chosen), strict=True)]
        return self._of(joined([part for part in kept if len(part.removed)]))

    def _checked(self, positions: ArrayLike) -> NDArray[np.int64]:
        chosen = np.asarray(positions)
        if not chosen.size:
            return np.empty(0, np.int64)
        if chosen.ndim != 1 or chosen.dtype.kind not in "iu":
            raise CareError(f"positions are {chosen.dtype} {list(chosen.shape)}; they must be integers [n]")
        wrong = (chosen < 0) | (chosen >= len(self))
        if wrong.any():
            raise CareError(f"there is no document {chosen[np.argmax(wrong)]}; the index has {len(self)}")
        return chosen.astype(np.int64)

    def _split(self, positions: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Yield the positions in each part, which ascend, numbered from its first."""
        bounds = np.searchsorted(positions, self._starts)
        for start, low, high in zip(self._starts, bounds[:-1], bounds[1:], strict=False):
            yield positions[low:high] - start

    def statistics(self, queries: Sequence[str]) -> WordStatistics:
        """Return what scores depend on besides the documents themselves.

        Parameters
        ----------
        queries : sequence of str
        """
        having = []
        for query in queries:
            grams, _ = packed_grams(query)
            counts = np.zeros(len(grams), np.int64)
            for part in self._parts:
                counts += part.having(*part.postings.find(grams))
            having.append(counts)
        return WordStatistics(self.alive, sum(part.length for part in self._parts), having)

    def _norms_for(self, average: float) -> list[NDArray[np.float32]]:
        """Return what BM25 adds to a term's frequency, for each document of each part; infinite for removed ones, which score 0.

        Those for one average length of documents are kept.
        """
        kept = self._norms
        if kept is None or kept[0] != average:
            found = []
            for part in self._parts:
                norms = (self.k1 * (1 - self.b + self.b / average * part.postings.lengths)).astype(np.float32)
                norms[part.removed] = np.inf
                found.append(norms)
            self._norms = kept = average, found
        return kept[1]

    def scores(self, query: str, statistics: WordStatistics | None = None) -> NDArray[np.float32]:
        """Return the score of every document, float32 ``[len(self)]``; 0 if it is removed or shares no term with the query.

        Parameters
        ----------
        query : str
        statistics : WordStatistics, optional
            For this query, those of more documents than this index has; by default its own.
        """
        scores = np.zeros(len(self), np.float32)
        grams, repeated = packed_grams(query)
        found = [part.postings.find(grams) for part in self._parts]
        if statistics is None:
            alive, length, having = (
                self.alive,
                sum(part.length for part in self._parts),
                np.zeros(len(grams), np.int64),
            )
            for part, (begins, ends) in zip(self._parts, found, strict=True):
                having += part.having(begins, ends)
        else:
            alive, length, (having,) = statistics
        weights = (repeated * np.log1p((alive - having + 0.5) / (having + 0.5))).astype(np.float32)
        every_norm = self._norms_for(length / max(alive, 1) or 1.0)
        for number, part in enumerate(self._parts):
            own = scores[self._starts[number] : self._starts[number + 1]]
            part.add_scores(own, *found[number], weights, every_norm[number])
        return scores

    def save(self, folder: str | Path, *, moved_to: str | Path | None = None) -> None:
        """Write the index to a folder that only its owner can read.

        An existing index is replaced; any other folder is refused. Documents that were loaded from or saved to the same file
        system before are not written again: their files appear in both folders, as hard links.

        Parameters
        ----------
        folder : str or Path
        moved_to : str or Path, optional
            Where the caller is going to move the folder, so that the next `save` finds its files.

        Raises
        ------
        CareError
            The folder exists and contains something else, or cannot be written.
        """
        lexical_files.save(
            Path(folder),
            [part.postings for part in self._parts],
            self.removed,
            k1=self.k1,
            b=self.b,
            moved_to=Path(moved_to or folder),
        )

    @classmethod
    def load(cls, folder: str | Path, *, verify: bool = True) -> LexicalIndex:
        """Open a saved index; its files are mapped into memory.

        Parameters
        ----------
        folder : str or Path
        verify : bool
            Compare checksums. This reads every file once.

        Raises
        ------
        CareError
            The folder contains no such index, or a damaged one.
        """
        found = lexical_files.load(Path(folder), verify=verify)
        index = cls(k1=found.k1, b=found.b)
        masks = np.split(found.removed, np.cumsum([postings.count for postings in found.parts])[:-1])
        index._set_parts(Part.of(postings, mask) for postings, mask in zip(found.parts, masks, strict=False))
        return index

    def __repr__(self) -> str:
        removed = len(self) - self.alive
        return f"<LexicalIndex of {len(self)} documents{f', {removed} removed' if removed else ''}>"
