"""The columns of a collection's table, and its vectors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from care_accel.collection.storage.rows import ID, TEXT, TITLE
from care_accel.collection.storage.table import CHUNK, CONTENT_HASH, END, ROW_HASH, START, VECTOR

# Lance refuses two commits that insert the same key: writers at once cannot make a document twice.
_KEY = {"lance-schema:unenforced-primary-key": "true"}


def schema(width: int, metadata: Mapping[bytes, bytes]) -> pa.Schema:
    """Return the schema of a collection without fields."""
    return pa.schema(
        [
            pa.field(ID, pa.string(), nullable=False, metadata=_KEY),
            pa.field(CHUNK, pa.int32(), nullable=False, metadata=_KEY),
            pa.field(START, pa.int64(), nullable=False),
            pa.field(END, pa.int64(), nullable=False),
            pa.field(TITLE, pa.string()),
            pa.field(TEXT, pa.string()),
            pa.field(CONTENT_HASH, pa.binary()),
            pa.field(ROW_HASH, pa.binary()),
            pa.field(VECTOR, pa.list_(pa.float32(), width)),
        ],
        metadata=dict(metadata),
    )


def vectors_of(column: pa.ChunkedArray | pa.Array) -> NDArray[np.float32]:
    """Return a column of vectors as float32 ``[n, width]``."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    width = array.type.list_size
    return array.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)


def vector_column(vectors: NDArray[np.float32], width: int) -> pa.Array:
    """Return float32 ``[n, width]`` as a column."""
    flat = np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), width)
