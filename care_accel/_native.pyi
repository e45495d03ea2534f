from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK: int
MOST_WIDTH: int
CUDA: bool
# Where CUDA is true, the following and what is at the end:
CUDA_MOST_WIDTH: int
CUDA_MOST_K: int

def block_bytes(width: int) -> int:
    """Return the bytes of a block of ``BLOCK`` coded vectors."""

def half_block_bytes(width: int) -> int:
    """Return the bytes of a block of ``BLOCK`` vectors in halves."""

def quarter_bytes(width: int) -> int:
    """Return the bytes of a vector's quarters."""

def norms(width: int) -> int:
    """Return how many error norms a vector has: one for each prefix and one for all of it."""

def encode(
    vectors: NDArray[np.float32],
    *,
    first: int,
    mean: NDArray[np.float32],
    exponent: int,
    threads: int,
    bytes: NDArray[np.uint8],
    norms: NDArray[np.float32],
) -> None:
    """Write the codes of ``vectors`` as rows ``first`` and after.

    ``bytes`` is ``[blocks, block_bytes(width)]``; ``norms`` is ``[2 + norms(width), blocks * BLOCK]``: scales,
    lengths and error norms. All arrays are C-contiguous; ``TypeError`` otherwise.
    """

def encode_halves(
    vectors: NDArray[np.float32],
    *,
    first: int,
    mean: NDArray[np.float32],
    exponent: int,
    threads: int,
    bytes: NDArray[np.uint8],
    quarters: NDArray[np.uint8],
    norms: NDArray[np.float32],
) -> None:
    """Write the halves and quarters of ``vectors`` as rows ``first`` and after.

    ``bytes`` is ``[blocks, half_block_bytes(width)]``; ``quarters`` is ``[blocks * BLOCK, quarter_bytes(width)]``; ``norms``
    is ``[3, blocks * BLOCK]``: scales, error norms, and those with quarters.
    """

def search(
    vectors: NDArray[np.float32],
    *,
    bytes: NDArray[np.uint8],
    norms: NDArray[np.float32],
    mean: NDArray[np.float32],
    exponent: int,
    queries: NDArray[np.float32],
    k: int,
    threads: int,
    allowed: NDArray[np.uint16] | None = None,
    instruction_set: str = "",
    half_bytes: NDArray[np.uint8] | None = None,
    quarters: NDArray[np.uint8] | None = None,
    half_norms: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return scores and ids, ``[n, k]`` each, and how many vectors were scored exactly, ``[n]``.

    Queries may be narrower than the vectors: that many first values are compared. ``allowed`` has one bit a
    vector. Halves, all three arrays or none, make one query over a large index faster. ``instruction_set`` forces one of `instruction_sets`: the result is the same for each.
    """

def as_float32(scores: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the nearest float32 of each score ``[n, k]``; infinity beyond float32."""

def instruction_sets() -> list[str]:
    """Return what the scan can use on this processor, the fastest first."""

class GteEncoder:
    """A gte network on the CPU; ``csrc/include/care/encoder.hpp``. What does not fit is a ``ValueError``."""

    nbytes: int

    def __init__(
        self,
        words: NDArray[np.float32],
        *,
        type: NDArray[np.float32] | None,
        norm: tuple[NDArray[np.float32], NDArray[np.float32]],
        cosines: NDArray[np.float32],
        sines: NDArray[np.float32],
        heads: int,
        intermediate: int,
        epsilon: float,
        int8: bool,
        instruction_set: str = "",
    ) -> None:
        """Take ``words``, ``[vocabulary, hidden]``, as they lie; cosines and sines are ``[positions, head size]``."""

    def add_layer(
        self,
        *,
        query: tuple[NDArray[np.float32], NDArray[np.float32] | None],
        key: tuple[NDArray[np.float32], NDArray[np.float32] | None],
        value: tuple[NDArray[np.float32], NDArray[np.float32] | None],
        output: tuple[NDArray[np.float32], NDArray[np.float32] | None],
        attention_norm: tuple[NDArray[np.float32], NDArray[np.float32]],
        gate: tuple[NDArray[np.float32], NDArray[np.float32] | None],
        up: tuple[NDArray[np.float32], NDArray[np.float32] | None],
        down: tuple[NDArray[np.float32], NDArray[np.float32] | None],
        feed_forward_norm: tuple[NDArray[np.float32], NDArray[np.float32]],
    ) -> None:
        """Pack copies of a layer's weights, ``[outputs, inputs]``, and biases."""

    def encode(
        self,
        ids: NDArray[np.int64],
        lengths: NDArray[np.int64],
        *,
        pooling: str,
        normalize_first: bool,
        width: int,
        threads: int,
    ) -> NDArray[np.float32]:
        """Return ``[texts, width]`` vectors of texts whose ids lie one after another, ``lengths`` of them each."""

def cuda_devices() -> int:
    """Return how many GPUs there are; ``RuntimeError`` where CUDA cannot say."""

class CudaArray:
    """An array on a GPU, for any library that takes DLPack."""

    shape: list[int]

    def __dlpack_device__(self) -> tuple[int, int]: ...
    def __dlpack__(self, stream: int | None = None, **options: object) -> object: ...

class CudaIndex:
    """An index in a GPU's memory; ``csrc/include/care/cuda.hpp``. CUDA's errors are ``RuntimeError``."""

    nbytes: int

    def __init__(
        self,
        vectors: NDArray[np.float32],
        *,
        bytes: NDArray[np.uint8],
        norms: NDArray[np.float32],
        mean: NDArray[np.float32],
        exponent: int,
        device: int,
    ) -> None: ...
    def search(
        self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.uint16] | None, findable: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        """Return what `search` does. ``findable``: how many vectors may be found; it changes the time alone."""

    def search_on_device(
        self, queries: Any, k: int, allowed: NDArray[np.uint16] | None, findable: int, stream: int
    ) -> tuple[CudaArray, CudaArray]:
        """Return scores and ids on the GPU, for queries that are there; ``stream`` is CUDA's, 0 for the default."""
