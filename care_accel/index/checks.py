"""Checks of the input and the result of a search."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from care_accel import _native
from care_accel.errors import CareError


def subset_mask(subset: ArrayLike, count: int) -> NDArray[np.bool_]:
    """Return a mask ``[count]`` of the vectors that `ExactIndex.search` may find.

    Raises
    ------
    CareError
        The subset is neither such a mask nor ids below ``count``.
    """
    chosen = np.asarray(subset)
    if chosen.dtype == bool:
        if chosen.shape != (count,):
            raise CareError(f"subset is a mask of shape {list(chosen.shape)}; it must be [{count}]")
        return chosen
    mask = np.zeros(count, dtype=bool)
    if chosen.size:
        if chosen.ndim != 1 or chosen.dtype.kind not in "iu":
            raise CareError(
                f"subset is {chosen.dtype} {list(chosen.shape)}; it must be a mask or integer ids [n]"
            )
        wrong = (chosen < 0) | (chosen >= count)
        if wrong.any():
            raise CareError(f"subset contains id {chosen[np.argmax(wrong)]}; the index has {count} vectors")
        mask[chosen] = True
    return mask


def to_float32(scores: NDArray[np.float64], ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return scores as float32.

    Raises
    ------
    CareError
        A score is out of the range of float32.
    """
    rounded = _native.as_float32(scores)
    overflow = np.isinf(rounded) & (ids >= 0)
    if overflow.any():
        row, place = np.argwhere(overflow)[0]
        raise CareError(
            f"query {row}: its score with vector {ids[row, place]} is {scores[row, place]:g}, out of the range "
            "of float32; scale the vectors or the queries down"
        )
    return rounded


def checked_rows(array: NDArray[np.generic], width: int, name: str) -> NDArray[np.float32]:
    """Return float32 rows ``[n, width]``.

    Raises
    ------
    CareError
        The shape or dtype is wrong, or a value is not finite; the message names the first such row.
    """
    if array.ndim != 2 or array.shape[1] != width:
        raise CareError(f"{name} have shape {list(array.shape)}; they must be [n, {width}]")
    if array.dtype not in (np.float32, np.float16):
        raise CareError(
            f"{name} are {array.dtype}; convert them to float32 or float16: nothing is rounded silently"
        )
    rows = np.ascontiguousarray(array, dtype=np.float32)
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise CareError(f"{name}: row {int(np.argmin(finite))} contains a value that is not finite")
    return rows
