"""What searches of vectors have in common, and a saved index of whichever kind."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from care_accel.index.approximate import ApproximateIndex
from care_accel.index.approximate.files import MANIFEST as APPROXIMATE_MANIFEST
from care_accel.index.exact import ExactIndex
from care_accel.index.parts import SearchStats
from care_accel.index.store import MANIFEST as EXACT_MANIFEST

# The files that tell what kind of index a folder has.
MANIFESTS = (APPROXIMATE_MANIFEST, EXACT_MANIFEST)


class VectorIndex(Protocol):
    """An index of vectors as a `Retriever` takes it: `ExactIndex`, `ApproximateIndex`; see there."""

    width: int
    device: str
    threads: int
    encoder_revision: str | None
    order: str

    def __len__(self) -> int: ...

    @property
    def vectors(self) -> NDArray[np.float32]:
        """The vectors, removed ones included, float32 ``[len(self), width]``."""
        ...

    @property
    def removed(self) -> NDArray[np.bool_]:
        """Which vectors are removed, bool ``[len(self)]``."""
        ...

    @property
    def alive(self) -> int:
        """Number of vectors that are not removed."""
        ...

    def add(self, vectors: ArrayLike, *, convert: bool = False) -> None:
        """Append vectors."""
        ...

    def remove(self, ids: ArrayLike) -> int:
        """Remove vectors; return how many were removed that were not before."""
        ...

    def replace(self, ids: ArrayLike, vectors: ArrayLike, *, convert: bool = False) -> NDArray[np.int64]:
        """Remove vectors and append others in one step; return the ids of the new ones."""
        ...

    @overload
    def search(
        self,
        queries: ArrayLike,
        k: int = ...,
        *,
        width: int | None = ...,
        subset: ArrayLike | None = ...,
        threads: int | None = ...,
        convert: bool = ...,
        return_stats: Literal[False] = ...,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]: ...

    @overload
    def search(
        self,
        queries: ArrayLike,
        k: int = ...,
        *,
        width: int | None = ...,
        subset: ArrayLike | None = ...,
        threads: int | None = ...,
        convert: bool = ...,
        return_stats: Literal[True],
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], SearchStats]: ...

    def save(self, folder: str | Path, *, moved_to: str | Path | None = None) -> None:
        """Write the index to a folder that only its owner can read."""
        ...


def load_index(
    folder: str | Path,
    *,
    device: str = "cpu",
    threads: int | None = None,
    resident: Literal["codes", "all"] | None = None,
    verify: bool = True,
) -> ExactIndex | ApproximateIndex:
    """Open a saved index of the kind that the folder has; parameters and errors are those of `ExactIndex.load`."""
    kind = ApproximateIndex if (Path(folder) / APPROXIMATE_MANIFEST).is_file() else ExactIndex
    return kind.load(folder, device=device, threads=threads, resident=resident, verify=verify)
