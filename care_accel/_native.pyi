from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK: int
MAX_WIDTH: int
MIN_VALUE_SCALE: float
CUDA: bool
# Only if CUDA is true, like cuda_devices, CudaArray and CudaIndex:
CUDA_MAX_WIDTH: int
CUDA_MAX_K: int

def block_bytes(width: int) -> int:
    """Return the bytes of a block of int8 codes: of ``BLOCK`` vectors."""

def int4_block_bytes(width: int) -> int:
    """Return the bytes of a block of int4 codes."""

def residual_bytes(width: int) -> int:
    """Return the bytes of a vector's residual codes."""

def error_norm_count(width: int) -> int:
    """Return the number of error norms of a vector: one for each prefix, and one for the whole width."""

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
    """Quantise ``vectors`` to int8; they become rows ``first``, ``first + 1``, ...

    ``bytes`` is ``[blocks, block_bytes(width)]``; ``norms`` is ``[2 + error_norm_count(width), blocks * BLOCK]``: scales,
    code norms and error norms. All arrays must be C-contiguous; ``TypeError`` otherwise.
    """

def encode_int4(
    vectors: NDArray[np.float32],
    *,
    first: int,
    mean: NDArray[np.float32],
    exponent: int,
    value_scales: NDArray[np.float32],
    threads: int,
    bytes: NDArray[np.uint8],
    residuals: NDArray[np.uint8],
    norms: NDArray[np.float32],
) -> None:
    """Quantise ``vectors`` to int4 codes and residual codes; they become rows ``first``, ``first + 1``, ...

    ``bytes`` is ``[blocks, int4_block_bytes(width)]``; ``residuals`` is ``[blocks * BLOCK, residual_bytes(width)]``; ``norms``
    is ``[3, blocks * BLOCK]``: scales, error norms, and error norms with residual codes; ``value_scales`` is ``[width]``, from
    ``MIN_VALUE_SCALE`` to 1: ``ValueError`` otherwise.
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
    int4_bytes: NDArray[np.uint8] | None = None,
    residuals: NDArray[np.uint8] | None = None,
    int4_norms: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return scores and ids, ``[n, k]`` each, and how many vectors were scored exactly, ``[n]``.

    Queries may be narrower than the vectors: they are compared with a prefix of each vector. ``allowed`` is a bit mask of the
    vectors to search, one 16-bit word per block. Int4 codes (all three arrays or none) make one query over a large index
    faster. ``instruction_set`` forces one of `instruction_sets`; the result is the same for each.
    """

def search_rows(
    vectors: NDArray[np.float32],
    rows: NDArray[np.int64],
    *,
    queries: NDArray[np.float32],
    k: int,
    threads: int,
    instruction_set: str = "",
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return scores and ids, ``[n, k]`` each, of the best of some vectors, all scored exactly; ``rows`` ascend."""

def search_candidates(
    vectors: NDArray[np.float32],
    rows: NDArray[np.int64],
    query: NDArray[np.float32],
    k: int,
    ids: NDArray[np.int64] | None = None,
    alive: NDArray[np.uint16] | None = None,
    instruction_set: str = "",
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return scores and ids of the best of some vectors for one query ``[1, width]``, and how many were scored, all exactly.

    ``rows`` are in any order; negative ones are none. Row ``i`` is the vector ``ids[i]``, negative for none, by default ``i``. Vectors
    without their bit in ``alive`` are left out. The GIL is held.
    """

def copied(values: object, into: NDArray[np.float32]) -> bool:
    """Copy a finite float32 array in C order, ``[n]`` or ``[1, n]``, to another one of n values; return false for anything else."""

def all_finite(values: NDArray[np.float32]) -> bool:
    """Return whether all values are finite; for a few values faster than NumPy."""

def as_float32(scores: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the float32 nearest to each score ``[n, k]``; infinity if it is out of range."""

def instruction_sets() -> list[str]:
    """Return the instruction sets that this processor has a kernel for, the fastest first."""

_Weights = tuple[NDArray[np.float32], NDArray[np.float32] | None]

class Encoder:
    """A transformer network on the CPU; ``csrc/include/care/encoder.hpp``. Raises ``ValueError`` for arguments that do not fit."""

    nbytes: int

    def __init__(
        self,
        word_embeddings: NDArray[np.float32],
        *,
        position_embeddings: NDArray[np.float32] | None = None,
        first_position: int = 0,
        uncounted: int = -1,
        token_type: NDArray[np.float32] | None = None,
        norm: _Weights,
        rotary: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
        positions: int,
        heads: int,
        key_value_heads: int,
        head_size: int,
        intermediate: int,
        epsilon: float,
        norm_kind: str = "layer",
        norm_place: str = "post",
        activation: str,
        gated: bool,
        causal: bool = False,
        int8: bool,
        instruction_set: str = "",
    ) -> None:
        """Use ``word_embeddings``, ``[vocabulary, hidden]``, in place, and copies of the others.

        ``positions`` is the maximum number of tokens. Token t of a text has row ``first_position`` + t of ``position_embeddings``;
        the id ``uncounted`` has the row before the first, and does not count. ``rotary`` are cosines and sines, ``[positions, head
        size]`` each. ``norm_kind`` is ``layer`` or ``rms``, ``norm_place`` ``post`` or ``pre``, ``activation`` ``gelu``, ``gelu_tanh``,
        ``relu`` or ``silu``.
        """

    def add_layer(
        self,
        *,
        query: _Weights,
        key: _Weights,
        value: _Weights,
        output: _Weights,
        attention_norm: _Weights,
        up: _Weights,
        down: _Weights,
        feed_forward_norm: _Weights,
        gate: _Weights | None = None,
        query_norm: NDArray[np.float32] | None = None,
        key_norm: NDArray[np.float32] | None = None,
    ) -> None:
        """Pack copies of the weights, ``[outputs, inputs]``, and biases of a layer; each norm is that of the sum before it."""

    def encode(
        self,
        rows: Sequence[Sequence[int]],
        *,
        pooling: str,
        normalize_first: bool,
        width: int,
        threads: int,
    ) -> NDArray[np.float32]:
        """Return vectors ``[texts, width]`` of texts, each a list of ids."""

def cuda_devices() -> int:
    """Return the number of GPUs; raises ``RuntimeError`` if CUDA fails."""

class CudaArray:
    """An array in GPU memory, for any library that supports DLPack."""

    shape: list[int]

    def __dlpack_device__(self) -> tuple[int, int]: ...
    def __dlpack__(self, stream: int | None = None, **options: object) -> object: ...

class CudaIndex:
    """An index in GPU memory; ``csrc/include/care/cuda.hpp``. Raises ``RuntimeError`` for errors of CUDA."""

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
        self,
        queries: NDArray[np.float32],
        k: int,
        allowed: NDArray[np.uint16] | None,
        allowed_count: int,
        max_columns: int = 0,
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        """Return what `search` returns. ``allowed_count`` is the number of allowed vectors, ``max_columns`` as in `CudaScan`.

        Both change only the time.
        """

    def search_on_device(
        self,
        queries: Any,
        k: int,
        allowed: NDArray[np.uint16] | None,
        allowed_count: int,
        stream: int,
        max_columns: int = 0,
    ) -> tuple[CudaArray, CudaArray]:
        """Return scores and ids in GPU memory, for queries in GPU memory; ``stream`` is a CUDA stream, 0 for the default."""
