"""Several indexes that are searched as one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import ArrayLike, NDArray

from care_accel.errors import CareError, require_count
from care_accel.index.checks import as_floats, subset_mask, to_float32
from care_accel.index.exact import ExactIndex
from care_accel.index.parts import merged


class Shards:
    """Several indexes with consecutive ids: the same hits as one index of all their vectors.

    Hits are merged by their float64 scores, so that the division into shards changes nothing.

    Parameters
    ----------
    indexes : sequence of ExactIndex
        With the same width, order and document encoder.

    Raises
    ------
    CareError
        There is no index, or these differ.
    """

    def __init__(self, indexes: Sequence[ExactIndex]) -> None:
        if not indexes:
            raise CareError("no index was given; Shards needs at least one")
        for name in ("width", "order", "encoder_revision"):
            found = list(dict.fromkeys(getattr(index, name) for index in indexes))
            if len(found) > 1:
                raise CareError(f"the indexes differ in {name}: {found[0]} and {found[1]}")
        self.indexes = list(indexes)
        self.width = indexes[0].width
        self.encoder_revision = indexes[0].encoder_revision

    def __len__(self) -> int:
        return sum(map(len, self.indexes))

    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        *,
        width: int | None = None,
        subset: ArrayLike | None = None,
        threads: int | None = None,
        convert: bool = False,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the k best documents of each query; parameters and errors are those of `ExactIndex.search`."""
        require_count("k", k)
        array = as_floats(queries, "queries", convert=convert)
        rows = array[np.newaxis] if array.ndim == 1 else array
        ends = list(accumulate(map(len, self.indexes)))
        mask = None if subset is None else subset_mask(subset, ends[-1])
        starts = [end - len(index) for index, end in zip(self.indexes, ends, strict=True)]
        found = [
            index.search_in_float64(
                rows, k, width=width, subset=None if mask is None else mask[start:end], threads=threads
            )
            for index, start, end in zip(self.indexes, starts, ends, strict=True)
        ]
        exact, ids, _ = merged(starts, found, int(k))
        scores = to_float32(exact, ids)
        return (scores[0], ids[0]) if array.ndim == 1 else (scores, ids)
