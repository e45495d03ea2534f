"""The scan on a GPU: a copy of an index there, made when it is first searched."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from care_accel import _native
from care_accel.errors import CareError

if TYPE_CHECKING:
    from care_accel.index.codes import Codes

_GPU = 2  # DLPack's number of CUDA's kind of device


def require_cuda(device: str) -> int:
    """Return the number of a GPU.

    Parameters
    ----------
    device : str
        ``"cuda"`` or ``"cuda:1"``.

    Raises
    ------
    CareError
        This build has no CUDA parts, or there is no such GPU.
    """
    name, _, number = device.partition(":")
    if name != "cuda" or (number and not number.isdecimal()):
        raise CareError(f"device is {device!r}; it must be 'cpu', 'cuda' or one such as 'cuda:1'")
    if not _native.CUDA:
        raise CareError(
            f"device {device!r}: this build has no CUDA parts; build with nvcc on PATH by CARE_CUDA=ON pip install . "
            "from the sources, or use device='cpu'"
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
    """Searches a copy on one GPU.

    Parameters
    ----------
    device : int
    width : int
        Of the index.
    """

    def __init__(self, device: int, width: int) -> None:
        if width > _native.CUDA_MOST_WIDTH:
            raise CareError(
                f"width is {width}; a GPU takes {_native.CUDA_MOST_WIDTH:,} at most: use device='cpu'"
            )
        self._device = device
        self._copy: Any = None
        self._copied = -1

    def search(
        self,
        vectors: NDArray[np.float32],
        codes: Codes,
        queries: NDArray[np.float32],
        k: int,
        allowed: NDArray[np.uint16] | None,
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        """Return what `_native.search` does."""
        copy, findable = self._prepare(vectors, codes, k, allowed)
        try:
            return copy.search(queries, k=k, allowed=allowed, findable=findable)
        except RuntimeError as error:
            raise CareError(f"cuda:{self._device}: {error}") from None

    def search_there(
        self,
        vectors: NDArray[np.float32],
        codes: Codes,
        queries: Any,
        k: int,
        allowed: NDArray[np.uint16] | None,
        stream: int | None,
    ) -> tuple[Any, Any]:
        """Return (scores, ids) on the GPU, as arrays of the library that the queries come from."""
        library = sys.modules.get(type(queries).__module__.partition(".")[0])
        copy, findable = self._prepare(vectors, codes, k, allowed)
        if stream is None:
            stream = _current_stream(library, self._device)
        try:
            found = copy.search_on_device(queries, k=k, allowed=allowed, findable=findable, stream=stream)
        except (RuntimeError, ValueError) as error:
            raise CareError(f"cuda:{self._device}: {error}") from None
        take = getattr(library, "from_dlpack", None)
        return found if take is None else tuple(map(take, found))

    def _prepare(
        self, vectors: NDArray[np.float32], codes: Codes, k: int, allowed: NDArray[np.uint16] | None
    ) -> tuple[Any, int]:
        if k > _native.CUDA_MOST_K:
            raise CareError(f"k is {k}; a GPU finds {_native.CUDA_MOST_K:,} at most: use device='cpu'")
        if self._copied != len(vectors):
            self._copy = None  # its memory first
            try:
                self._copy = _native.CudaIndex(vectors, device=self._device, **codes.arguments())
            except RuntimeError as error:
                raise CareError(f"cuda:{self._device}: {error}") from None
            self._copied = len(vectors)
        findable = len(vectors) if allowed is None else int(np.unpackbits(allowed.view(np.uint8)).sum())
        return self._copy, findable


def is_on_gpu(array: Any) -> bool:
    """Say whether an array of any library lies in a GPU's memory."""
    place = getattr(array, "__dlpack_device__", None)
    return place is not None and int(place()[0]) == _GPU


def _current_stream(library: Any, device: int) -> int:
    """Return the stream that the caller's library works on; CUDA's default one where that is unknown."""
    name = getattr(library, "__name__", "")
    if name == "torch":
        return int(library.cuda.current_stream(device).cuda_stream)
    if name == "cupy":
        return int(library.cuda.get_current_stream().ptr)
    return 0
