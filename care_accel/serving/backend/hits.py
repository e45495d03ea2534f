"""Vectors to hits as a served model gives them: K, the scan, documents and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from care_accel.errors import CareError
from care_accel.serving.backend.open_collection import OpenCollection
from care_accel.serving.backend.open_index import OpenIndex
from care_accel.serving.backend.tensors import Backend, array

# A filter is parsed and planned: far longer ones are mistakes.
_MAX_FILTER_BYTES = 10_000

# An expression over the fields of a collection, or the bytes of int64 positions in an index.
Filter = str | bytes


class HitFinder:
    """Finds the hits of batched requests, each with its own k.

    Parameters of the configuration: ``care``, with ``k``, the default, and ``most_k``.

    Parameters
    ----------
    backend : Backend
    """

    def __init__(self, backend: Backend) -> None:
        known = backend.parameters["care"]
        self._seconds = backend.counter("scan_seconds", "Seconds spent on exact scans")
        self._queries = backend.counter("queries", "Queries searched for")
        self._rescored = backend.counter(
            "rescored_candidates", "Vectors that a scan's codes could not rule out"
        )
        self._k, self._max_k = int(known["k"]), int(known["most_k"])

    def read_ks(self, inputs: Mapping[str, Any], rows: int) -> list[int]:
        """Return the k of each text of a request.

        Raises
        ------
        CareError
            A k is out of range.
        """
        values = array(inputs, "K")
        if values is None:
            return [self._k] * rows
        ks: list[int] = values.ravel().tolist()
        for row, k in enumerate(ks):
            if not 1 <= k <= self._max_k:
                raise CareError(f"K {row} is {k}; it must be 1 to {self._max_k:,}")
        return ks

    @staticmethod
    def read_filters(
        inputs: Mapping[str, Any], index: OpenIndex | OpenCollection, rows: int
    ) -> Sequence[Filter | None] | None:
        """Return what each text of a request is limited to, None for a text without limits; None if no text has any.

        Of a collection that is an expression (FILTER), of an index positions (SUBSET).

        Raises
        ------
        CareError
            A filter is wrong, a document does not exist, or the index is of the other kind.
        """
        subset = array(inputs, "SUBSET")
        if subset is not None:
            if not isinstance(index, OpenIndex):
                raise CareError("SUBSET needs an index, whose positions stay; send FILTER to a collection")
            return _read_subsets(subset, len(index))
        raw = array(inputs, "FILTER")
        if raw is None:
            return None
        found = read_expressions(raw, rows)
        for expression in filter(None, found):
            if not isinstance(index, OpenCollection):
                raise CareError("FILTER needs a collection; serve one, or send no filter")
            index.check_filter(expression)
        return found if any(found) else None

    def find(
        self,
        index: OpenIndex | OpenCollection,
        vectors: Any,
        ks: Sequence[list[int]],
        texts: list[str] | None,
        filters: Sequence[Sequence[Filter | None] | None],
    ) -> tuple[list[dict[str, NDArray[Any]]], float]:
        """Return the outputs IDS, SCORES and DOCUMENTS of each request, and the microseconds of the scan.

        Of a collection DOCUMENT_IDS too.

        Parameters
        ----------
        index : OpenIndex or OpenCollection
        vectors : numpy.ndarray or torch.Tensor
            float32 ``[n, width]``: those of all requests.
        ks : sequence of list of int
            Of each request, those of its texts.
        texts : list of str, optional
            The n texts, for a hybrid index.
        filters : sequence
            Of each request, those of its texts.
        """
        begun = perf_counter()
        of_all: Any = (
            [one for some, k in zip(filters, ks, strict=True) for one in (some or [None] * len(k))]
            if any(filters)
            else None
        )
        scores, ids, rescored = index.search(vectors, [k for one in ks for k in one], texts, of_all)
        seconds = perf_counter() - begun
        self._seconds.add(seconds)
        self._queries.add(len(ids))
        self._rescored.add(rescored)
        outputs: list[dict[str, NDArray[Any]]] = []
        end = 0
        for one in ks:
            start, end = end, end + len(one)
            some = slice(start, end), slice(max(one))
            found = np.ascontiguousarray(ids[some])
            outputs.append(
                {
                    "IDS": found,
                    "SCORES": np.ascontiguousarray(scores[some]),
                    "DOCUMENTS": index.documents(found),
                }
            )
            if isinstance(index, OpenCollection):
                outputs[-1]["DOCUMENT_IDS"] = index.document_ids(found)
        return outputs, 1e6 * seconds


def read_expressions(values: NDArray[np.object_] | None, rows: int) -> list[str | None]:
    """Return the filter of each text of a request, None for a text without one.

    Parameters
    ----------
    values : numpy.ndarray or None
        bytes objects ``[n, 1]``; None for no filters.
    rows : int

    Raises
    ------
    CareError
        A filter is too long, or is not UTF-8.
    """
    found: list[str | None] = [None] * rows
    for row, value in enumerate([] if values is None else values.ravel()[:rows]):
        if len(value) > _MAX_FILTER_BYTES:
            raise CareError(
                f"FILTER {row} has {len(value):,} bytes; at most {_MAX_FILTER_BYTES:,} are allowed"
            )
        try:
            found[row] = value.decode("utf-8").strip() or None
        except UnicodeDecodeError:
            raise CareError(f"FILTER {row} is not UTF-8; encode it as UTF-8") from None
    return found


def _read_subsets(subset: NDArray[np.int64], count: int) -> list[bytes]:
    """Return the positions of each text, without what fills up the row."""
    wrong = (subset < -1) | (subset >= count)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise CareError(
            f"SUBSET {row} has {subset[row, column]:,}, which is no position in an index of {count:,} vectors"
        )
    return [row[row >= 0].tobytes() for row in subset]
