"""Diversity selection: limits how many similar texts are kept."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from care_accel.curation.steps import Progress, no_progress
from care_accel.errors import CareError, require_count
from care_accel.index import ExactIndex
from care_accel.index.checks import as_floats, checked_rows

_BATCH = 1024


def select_diverse(
    vectors: ArrayLike,
    *,
    seeds: int,
    neighbours: int,
    similarity: float,
    batch: int = _BATCH,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> NDArray[np.bool_]:
    """Select texts in order, dropping those with too many near neighbours among the selected.

    CARE's rule: an index starts from the seeds; a candidate with more than ``neighbours`` neighbours above
    ``similarity`` is dropped, any other is added. The paper states neither number.

    Parameters
    ----------
    vectors : array_like
        ``[n, width]``, float32 or float16; compared by cosine. The first ones are the seeds: shuffle first for random
        seeds.
    seeds : int
        Number of leading vectors that are selected unconditionally.
    neighbours : int
        Maximum number of near neighbours of a selected text; 0 for none.
    similarity : float
        Cosine above which texts are near neighbours, -1 to 1.
    batch : int
        Candidates searched at a time; the result does not depend on it. A candidate is compared with everything
        selected before its batch, and sequentially with the selected ones of its batch.
    threads : int, optional
    progress : callable, optional

    Returns
    -------
    numpy.ndarray
        bool ``[n]``: mask of the selected vectors.

    Raises
    ------
    CareError
        Invalid vectors, a zero vector, or a parameter out of range.
    """
    array = as_floats(vectors, "vectors")
    rows = checked_rows(array, array.shape[-1] if array.ndim == 2 else 1, "vectors")
    require_count("batch", batch)
    if isinstance(neighbours, bool) or not hasattr(neighbours, "__index__") or neighbours < 0:
        raise CareError(f"neighbours is {neighbours!r}; it must be an integer, 0 or above")
    if not -1 <= similarity <= 1:
        raise CareError(f"similarity is {similarity}; a cosine is from -1 to 1")
    if seeds < 0:
        raise CareError(f"seeds is {seeds}; it must not be below 0")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if len(zero := np.flatnonzero(lengths == 0)):
        raise CareError(f"vector {zero[0]} is zero and has no cosine; remove it")
    index = ExactIndex(rows.shape[1], threads=threads)
    selected = np.zeros(len(rows), dtype=bool)
    selected[:seeds] = True
    if seeds and len(rows):
        index.add(rows[:seeds] / lengths[:seeds])
    with progress("diversity", len(rows)) as done:
        done(min(seeds, len(rows)))
        for start in range(seeds, len(rows), batch):
            unit = rows[start : start + batch] / lengths[start : start + batch]
            before = _count_near(index, unit, neighbours, similarity)
            chosen = _select_in_batch(unit, before, neighbours, similarity)
            selected[start : start + len(unit)] = chosen
            if chosen.any():
                index.add(unit[chosen])
            done(len(unit))
    return selected


def _count_near(
    index: ExactIndex, unit: NDArray[np.float32], neighbours: int, similarity: float
) -> NDArray[np.int64]:
    """Count each vector's near neighbours in the index, up to one more than is allowed."""
    if len(index) == 0:
        return np.zeros(len(unit), dtype=np.int64)
    scores, _, _ = index.search_in_float64(unit, k=min(neighbours + 1, len(index)))
    return np.count_nonzero(scores > similarity, axis=1)


def _select_in_batch(
    unit: NDArray[np.float32], before: NDArray[np.int64], neighbours: int, similarity: float
) -> NDArray[np.bool_]:
    """Select sequentially, counting the neighbours already selected within the batch."""
    exact = unit.astype(np.float64)
    near = exact @ exact.T > similarity
    counts = before.copy()
    selected = np.zeros(len(unit), dtype=bool)
    for position in range(len(unit)):
        if counts[position] <= neighbours:
            selected[position] = True
            counts[position + 1 :] += near[position, position + 1 :]
    return selected
