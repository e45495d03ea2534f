"""Search on a GPU: a copy of an index in GPU memory, made at the first search."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from care_accel import _native
from care_accel.errors import CareError

if TYPE_CHECKING:
    from care_accel.index.codes import Codes

_DLPACK_CUDA = 2


def require_cuda(device: str) -> int:
    """Return the number of the GPU that a device string names.

    Parameters
    ----------
    device : str
        ``"cuda"`` or ``"cuda:1"``.

    Raises
    ------
    CareError
        The string is malformed, this build has no CUDA support, or there is no such GPU.
    """
    name, _, number = str(device).partition(":")
    if name != "cuda" or (number and not number.isdecimal()):
        raise CareError(f"device is {device!r}; it must be 'cpu', 'cuda' or one such as 'cuda:1'")
    if not _native.CUDA:
        raise CareError(
            f"device {device!r}: this build has no CUDA support; build from source by CARE_CUDA=ON pip install . "
            "with nvcc on PATH, or use device='cpu'"
        )
    try:
        count = _native.cuda_devices()
    except RuntimeError as error:
        raise CareError(
            f"device {device!r}: {error}; check the driver with nvidia-smi, or use device='cpu'"
        ) from None
    if int(number or 0) >= count:
        raise CareError(f"device {device!r}: there are {count} GPUs, numbered from 0")
    return int(number or 0)


class CudaScan:
    """Searches a copy of an index on one GPU.

    Parameters
    ----------
    device : int
    width : int
        Width of the index.

    Attributes
    ----------
    max_columns : int
        Columns of queries that are multiplied for one read of the codes, at most; 0 for as many as fit. Only benchmarks
        set it: it never changes a hit.
    """

    def __init__(self, device: int, width: int) -> None:
        if width > _native.CUDA_MAX_WIDTH:
            raise CareError(
                f"width is {width}; a GPU supports {_native.CUDA_MAX_WIDTH:,} at most: use device='cpu'"
            )
        self._device = device
        self._width = width
        self.max_columns = 0
        self._copy: Any = None
        self._copied: Callable[[], Codes | None] = lambda: None  # whose copy it is

    def another(self) -> CudaScan:
        """Return one for other vectors, on the same GPU."""
        return CudaScan(self._device, self._width)

    def search(
        self,
        vectors: NDArray[np.float32],
        codes: Codes,
        queries: NDArray[np.float32],
        k: int,
        allowed: NDArray[np.uint16] | None,
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        """Return (scores, ids, rescored) like `_native.search`."""
        copy, allowed_count = self._prepare(vectors, codes, k, allowed)
        try:
            return copy.search(
                queries, k=k, allowed=allowed, allowed_count=allowed_count, max_columns=self.max_columns
            )
        except RuntimeError as error:
            raise CareError(f"cuda:{self._device}: {error}") from None

    def search_on_device(
        self,
        vectors: NDArray[np.float32],
        codes: Codes,
        queries: Any,
        k: int,
        allowed: NDArray[np.uint16] | None,
        stream: int | None,
    ) -> tuple[Any, Any]:
        """Return (scores, ids) in GPU memory, as arrays of the library of the queries."""
        library = sys.modules.get(type(queries).__module__.partition(".")[0])
        copy, allowed_count = self._prepare(vectors, codes, k, allowed)
        if stream is None:
            stream = _current_stream(library, self._device)
        try:
            found = copy.search_on_device(
                queries,
                k=k,
                allowed=allowed,
                allowed_count=allowed_count,
                stream=stream,
                max_columns=self.max_columns,
            )
        except (RuntimeError, ValueError) as error:
            raise CareError(f"cuda:{self._device}: {error}") from None
        take = getattr(library, "from_dlpack", None)
        return found if take is None else tuple(map(take, found))

    def _prepare(
        self, vectors: NDArray[np.float32], codes: Codes, k: int, allowed: NDArray[np.uint16] | None
    ) -> tuple[Any, int]:
        if k > _native.CUDA_MAX_K:
            raise CareError(f"k is {k}; a GPU supports {_native.CUDA_MAX_K:,} at most: use device='cpu'")
        if self._copied() is not codes:
            self._copy = None  # frees its memory first
            try:
                self._copy = _native.CudaIndex(vectors, device=self._device, **codes.arguments())
            except RuntimeError as error:
                raise CareError(f"cuda:{self._device}: {error}") from None
            self._copied = weakref.ref(codes)
        allowed_count = len(vectors) if allowed is None else int(np.unpackbits(allowed.view(np.uint8)).sum())
        return self._copy, allowed_count


def is_on_gpu(array: Any) -> bool:
    """Return whether an array of any library is in GPU memory."""
    device = getattr(array, "__dlpack_device__", None)
    return device is not None and int(device()[0]) == _DLPACK_CUDA


def _current_stream(library: Any, device: int) -> int:
    """Return the current CUDA stream of the caller's library; the default stream if it is unknown."""
    name = getattr(library, "__name__", "")
    if name == "torch":
        return int(library.cuda.current_stream(device).cuda_stream)
    if name == "cupy":
        return int(library.cuda.get_current_stream().ptr)
    return 0
