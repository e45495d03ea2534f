"""An open index as a served model uses it: hits of a batch of queries, and their documents."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from care_accel.index import ApproximateIndex, ExactIndex
from care_accel.retriever import Retriever

# Serialised documents in the cache; some tens of megabytes for CARE's tasks.
_CACHED_DOCUMENTS = 16_384
# `json.dumps` makes an encoder for each call with such an option.
_as_json = json.JSONEncoder(ensure_ascii=False).encode


class OpenIndex:
    """A retriever's index and documents. Immutable, so that a batch of requests has hits of one index.

    Parameters
    ----------
    retriever : Retriever
    """

    def __init__(self, retriever: Retriever) -> None:
        self._retriever = retriever
        index: Any = retriever.index
        # An approximate index takes vectors in host memory only.
        takes_tensors = index.device != "cpu" and hasattr(index, "search_on_device")
        self._on_gpu: ExactIndex | None = index if takes_tensors and retriever.lexical is None else None
        self._cached: dict[int, bytes] = {-1: b"null"}

    def __len__(self) -> int:
        return len(self._retriever.index)

    @property
    def is_approximate(self) -> bool:
        """Whether some searches are no exact scans."""
        index: Any = self._retriever.index
        return isinstance(index, ApproximateIndex) and index.finder is not None

    @property
    def promised(self) -> float:
        """The recall that was asked for; 1 if every search is an exact scan."""
        index: Any = self._retriever.index
        return float(index.choice.asked) if self.is_approximate else 1.0

    @property
    def needs_texts(self) -> bool:
        """Whether the texts of the queries are searched too: the index is hybrid."""
        return self._retriever.lexical is not None

    def search(
        self,
        vectors: Any,
        ks: Sequence[int],
        texts: list[str] | None,
        subsets: Sequence[bytes | None] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], int]:
        """Search a batch of queries with individual k and subsets.

        Parameters
        ----------
        vectors : numpy.ndarray or torch.Tensor
            float32 ``[n, width]``, in any memory; searched where the index is.
        ks : sequence of int
            Of each query.
        texts : list of str, optional
            For a hybrid index.
        subsets : sequence, optional
            Of each query: the int64 positions to search, as bytes, so that equal ones are searched together; None for all.

        Returns
        -------
        scores, ids : numpy.ndarray
            ``[n, max(k)]``; padded with ``-inf`` and -1 beyond a query's own k.
        rescored : int
            Number of vectors rescored exactly.
        """
        largest = max(ks)
        if not on_cpu(vectors):
            if self._on_gpu is not None and subsets is None:
                on_gpu = self._on_gpu.search_on_device(vectors, largest)
                scores, ids = (tensor.cpu().numpy().copy() for tensor in on_gpu)
                beyond = np.arange(scores.shape[1]) >= np.array(ks)[:, np.newaxis]
                scores[beyond], ids[beyond] = -np.inf, -1
                return scores, ids, 0  # the count of rescored vectors stays on the GPU
            vectors = vectors.cpu().numpy()
        if largest == min(ks) and subsets is None:
            scores, ids, stats = self._retriever.search_vectors(vectors, largest, texts)
            return scores, ids, sum(stats.rescored.tolist())
        shape = len(vectors), largest
        scores, ids = np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64)
        rescored = 0
        groups: dict[tuple[int, bytes | None], list[int]] = {}
        for row, k in enumerate(ks):
            groups.setdefault((k, None if subsets is None else subsets[row]), []).append(row)
        for (k, positions), rows in groups.items():
            some = None if texts is None else [texts[row] for row in rows]
            subset = None if positions is None else np.frombuffer(positions, np.int64)
            found = self._retriever.search_vectors(vectors[rows], k, some, subset=subset)
            scores[rows, :k], ids[rows, :k] = found[0], found[1]
            rescored += int(found[2].rescored.sum())
        return scores, ids, rescored

    def documents(self, ids: NDArray[np.int64]) -> NDArray[np.object_]:
        """Return the document of each hit as UTF-8 JSON, ``null`` for padding.

        They are cached: serialising takes as long as the search.
        """
        values = np.empty(ids.size, dtype=np.object_)
        cached = self._cached
        for i, position in enumerate(ids.ravel().tolist()):
            raw = cached.get(position)
            values[i] = self._write(position) if raw is None else raw
        return values.reshape(ids.shape)

    def _write(self, position: int) -> bytes:
        document = self._retriever.document(position)
        try:
            raw = _as_json(document).encode("utf-8")
        except UnicodeEncodeError:  # a lone surrogate: JSON can escape it, UTF-8 cannot encode it
            raw = json.dumps(document).encode("ascii")
        if len(self._cached) < _CACHED_DOCUMENTS:
            self._cached[position] = raw
        return raw


def on_cpu(vectors: Any) -> bool:
    """Return whether vectors are in host memory."""
    return isinstance(vectors, np.ndarray)
