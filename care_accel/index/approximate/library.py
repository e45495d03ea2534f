"""faiss, imported where it is used."""

from __future__ import annotations

from typing import Any

from care_accel.errors import CareError


def faiss_library() -> Any:
    """Return the module faiss.

    Raises
    ------
    CareError
        It is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise CareError(
            "approximate search needs the package faiss: pip install 'care-accel[faiss]'"
        ) from None
    return faiss


def require_gpu(device: str) -> int:
    """Return the number of a GPU that faiss can use.

    Raises
    ------
    CareError
        This faiss has no GPU code, or sees no such GPU.
    """
    faiss = faiss_library()
    if not hasattr(faiss, "StandardGpuResources"):
        raise CareError(
            f"device is {device!r}, but the faiss installed here has no GPU code; install faiss-gpu instead of faiss-cpu"
        )
    number = int(device.partition(":")[2] or 0)
    if number >= faiss.get_num_gpus():
        raise CareError(f"device is {device!r}, but faiss sees {faiss.get_num_gpus()} GPUs; use device='cpu'")
    return number


class omp_threads:
    """A context in which faiss uses so many threads in calls of this thread; of a generator it would take a microsecond more."""

    __slots__ = ("_before", "_count", "_faiss")

    def __init__(self, count: int) -> None:
        self._faiss, self._count = faiss_library(), count

    def __enter__(self) -> None:
        self._before = self._faiss.omp_get_max_threads()
        if self._before != self._count:
            self._faiss.omp_set_num_threads(self._count)

    def __exit__(self, *_: object) -> None:
        if self._before != self._count:
            self._faiss.omp_set_num_threads(self._before)
