"""Checks of the input and the result of a search."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from care_accel import _native
from care_accel.errors import CareError, require_count

# Up to one in so many vectors a subset is scored exactly, without a scan: most blocks of 16 then have one of them at most.
_FEW = 20


class Few(NamedTuple):
    """Ids of a few vectors, ascending and without repetitions, int64 ``[n]``."""

    ids: NDArray[np.int64]


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
    mask[checked_ids(chosen, "subset", count, "a mask or integer ids [n]")] = True
    return mask


def few_or_mask(subset: ArrayLike, count: int) -> Few | NDArray[np.bool_]:
    """Return the ids of a small subset, or the mask ``[count]`` of a larger one.

    Raises
    ------
    CareError
        As in `subset_mask`.
    """
    chosen = np.asarray(subset)
    if chosen.dtype != bool:
        ids = checked_ids(chosen, "subset", count, "a mask or integer ids [n]")
        if len(ids) <= count // _FEW:
            return Few(np.unique(ids))
        return subset_mask(ids, count)
    mask = subset_mask(chosen, count)
    return Few(np.flatnonzero(mask)) if np.count_nonzero(mask) <= count // _FEW else mask


def checked_ids(
    ids: ArrayLike, name: str, count: int, wanted: str = "integers [n], positions of vectors"
) -> NDArray[np.int64]:
    """Return ids of an index with ``count`` vectors.

    Raises
    ------
    CareError
        They are no integers ``[n]``, or one does not exist.
    """
    chosen = np.asarray(ids)
    if chosen.size == 0:
        return np.zeros(0, dtype=np.int64)
    if chosen.ndim != 1 or chosen.dtype.kind not in "iu":
        raise CareError(f"{name} is {chosen.dtype} {list(chosen.shape)}; it must be {wanted}")
    wrong = (chosen < 0) | (chosen >= count)
    if wrong.any():
        raise CareError(f"{name} contains id {chosen[np.argmax(wrong)]}; the index has {count} vectors")
    return chosen.astype(np.int64)


def require_prefix(width: int, whole: int, order: str) -> None:
    """Check that the vectors of an index can be compared by their first ``width`` of ``whole`` values.

    Raises
    ------
    CareError
        They are narrower, or are not normalised after they are cut.
    """
    require_count("width", width)
    if width > whole:
        raise CareError(f"width is {width}; the index has {whole}")
    if order != "normalize-then-slice":
        raise CareError(
            f"width is {width}, but the encoder of this index normalises after it slices, so a prefix is not a "
            f"normalised vector; encode the documents at width {width} and index them"
        )


def query_rows(
    array: NDArray[np.float32 | np.float16], width: int, whole: int, order: str
) -> NDArray[np.float32]:
    """Return queries ``[n, width]`` of an array of `as_floats`, which may be as wide as the index.

    Raises
    ------
    CareError
        As in `checked_rows` and `require_prefix`.
    """
    if width != whole:
        require_prefix(width, whole, order)
        if array.ndim == 2 and array.shape[1] == whole:
            array = array[:, :width]
    return checked_rows(array, width, "queries")


def to_float32(scores: NDArray[np.float64], ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return scores as float32.

    Raises
    ------
    CareError
        A score is out of the range of float32.
    """
    rounded = _native.as_float32(scores)
    if not _native.all_finite(rounded) and (overflow := np.isinf(rounded) & (ids >= 0)).any():
        row, place = np.argwhere(overflow)[0]
        raise CareError(
            f"query {row}: its score with vector {ids[row, place]} is {scores[row, place]:g}, out of the range "
            "of float32; scale the vectors or the queries down"
        )
    return rounded


def as_floats(values: Any, name: str, *, convert: bool = False) -> NDArray[np.float32 | np.float16]:
    """Return an array of any shape in float32 or float16, by one rule for vectors and queries.

    Taken as they are, because float32 holds each value: float32, float16 and bfloat16, in arrays or in tensors of torch on
    any device; a tensor that requires a gradient is detached. Lists of Python numbers have no precision of their own and
    are rounded to float32. Arrays and tensors of another dtype, such as float64, are rounded if ``convert``.

    Parameters
    ----------
    values : array_like
        May be a list of arrays or tensors.
    name : str
        For messages.
    convert : bool
        Round other real dtypes to float32.

    Raises
    ------
    CareError
        The dtype needs ``convert``, or is not one of real numbers; rows differ in length; or a value is out of the range of
        float32.
    """
    try:
        array = np.asarray(_without_torch(values))
    # Rows that differ in length, or objects of other libraries.
    except (ValueError, TypeError, RuntimeError) as cause:
        raise CareError(
            f"{name}: cannot be read as an array: {' '.join(str(cause).split())[:200]}; give an array [n, width]"
        ) from None
    if array.dtype in (np.float32, np.float16):
        return array
    if array.dtype.kind not in "iuf":
        raise CareError(f"{name} are {array.dtype}; give real numbers, best as float32")
    if not (convert or _is_plain(values)):
        raise CareError(
            f"{name} are {array.dtype}; use convert=True to round them to float32, or convert them to float32 or float16: "
            "nothing is rounded silently"
        )
    with np.errstate(over="ignore"):
        rounded = array.astype(np.float32)
    if (np.isinf(rounded) & np.isfinite(array)).any():
        raise CareError(f"{name}: a value is out of the range of float32; scale them down")
    return rounded


def _is_plain(values: Any) -> bool:
    """Whether a value is a Python number, or a list of such lists."""
    if isinstance(values, list | tuple):
        return all(map(_is_plain, values))
    return type(values) in (float, int)


def _without_torch(values: Any) -> Any:
    """Return values as numpy reads them: without tensors, which may be on a GPU, need a gradient, or be bfloat16."""
    # Where torch is not imported, or only in part by another thread, no value is a tensor.
    tensor_type = getattr(sys.modules.get("torch"), "Tensor", None)
    if tensor_type is None or isinstance(values, np.ndarray):
        return values
    if isinstance(values, tensor_type):
        tensor = values.detach().cpu()
        return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    if isinstance(values, list | tuple) and any(isinstance(value, tensor_type) for value in values):
        return [_without_torch(value) for value in values]
    return values


def checked_rows(array: NDArray[np.float32 | np.float16], width: int, name: str) -> NDArray[np.float32]:
    """Return float32 rows ``[n, width]`` of an array of `as_floats`.

    Raises
    ------
    CareError
        The shape is wrong, or a value is not finite; the message names the first such row.
    """
    if array.ndim != 2 or array.shape[1] != width:
        raise CareError(f"{name} have shape {list(array.shape)}; they must be [n, {width}]")
    rows = np.ascontiguousarray(array, dtype=np.float32)
    if not _native.all_finite(rows):
        row = int(np.argmin(np.isfinite(rows).all(axis=1)))
        raise CareError(f"{name}: row {row} contains a value that is not finite")
    return rows
