"""What a build of an approximate index is asked for, checked before anything is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Self

from care_accel.errors import CareError, require_count
from care_accel.index.approximate.arguments import checked_recall, in_bytes, in_seconds
from care_accel.index.approximate.library import require_gpu


@dataclass(frozen=True)
class Request:
    """What `ApproximateIndex.build` was asked for, checked.

    Parameters
    ----------
    recall : float
    k : int
    memory : int or None
        Bytes.
    budget : float
        Seconds.
    seed : int
    gpu : int or None
        Number of the GPU that searches.
    family : tuple of str or None
    threads : int
    show_progress : bool
    """

    recall: float
    k: int
    memory: int | None
    budget: float
    seed: int
    gpu: int | None
    family: tuple[str, ...] | None
    threads: int
    show_progress: bool

    @classmethod
    def checked(
        cls,
        recall: object,
        k: int,
        *,
        memory: object,
        budget: object,
        seed: int,
        device: str,
        family: Sequence[str] | None,
        threads: int,
        show_progress: bool,
    ) -> Self:
        """Return a request; arguments are those of `ApproximateIndex.build`.

        Raises
        ------
        CareError
            An argument is wrong, or faiss cannot use the GPU.
        """
        wanted = checked_recall(recall)
        require_count("k", k)
        require_count("threads", threads)
        limit, seconds = in_bytes(memory), in_seconds(budget)
        if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 2**31:
            raise CareError(f"seed is {seed!r}; it must be an integer of 0 to 2**31 - 1")
        if isinstance(family, str) or (
            family is not None and not all(isinstance(name, str) for name in family)
        ):
            raise CareError(f"family is {family!r}; it must be a list of names, such as ['HNSW32,Flat']")
        return cls(
            recall=wanted,
            k=int(k),
            memory=limit,
            budget=seconds,
            seed=int(seed),
            gpu=None if device == "cpu" else require_gpu(device),
            family=tuple(family) if family else None,
            threads=int(threads),
            show_progress=show_progress,
        )
