"""The scales of the values of int4 codes, where values differ in size from one place of a vector to another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from care_accel import _native

# Values and vectors of the sample that deviations come from, and vectors of it that are quantised to compare scales.
_SAMPLE_VALUES, _SAMPLE_VECTORS = 2**22, 4096
_COMPARED_VECTORS = 512
# Scales are deviations to one of these powers. With 1 all values have as many steps; but a query's large values then
# meet large errors, since large values of queries are mostly where those of the vectors are.
_POWERS = (0.25, 0.5, 0.75, 1.0)
# What gains less than this is not worth other scales than 1.
_LEAST_GAIN = 0.01


def no_value_scales(width: int) -> NDArray[np.float32]:
    """Return scales that change nothing, float32 ``[width]``."""
    return np.ones(width, dtype=np.float32)


def chosen_value_scales(
    vectors: NDArray[np.float32], mean: NDArray[np.float32], exponent: int, threads: int
) -> NDArray[np.float32]:
    """Return the scales with the tightest error bounds for queries that are like the vectors.

    Any scales are exact; only how many vectors the codes prune depends on them.

    Parameters
    ----------
    vectors : numpy.ndarray
        float32 ``[n, width]``, finite; a sample of them is used.
    mean : numpy.ndarray
        float32 ``[width]``, of the codes.
    exponent : int
        Of the unit of the codes.
    threads : int

    Returns
    -------
    numpy.ndarray
        float32 ``[width]``, from `_native.MIN_VALUE_SCALE` to 1; all are 1 if nothing is gained.
    """
    width = vectors.shape[1]
    best = no_value_scales(width)
    if len(vectors) == 0:
        return best
    sample = _spread(vectors, min(_SAMPLE_VECTORS, max(1, _SAMPLE_VALUES // width)))
    deviations = np.sqrt(np.square(sample - mean.astype(np.float64)).mean(axis=0))
    largest = float(deviations.max())
    if largest == 0:
        return best
    compared = np.ascontiguousarray(_spread(sample, _COMPARED_VECTORS))
    least = _mean_bound(compared, best, mean, exponent, threads) * (1 - _LEAST_GAIN)
    for power in _POWERS:
        # A value that never varies has the smallest scale: a query's value there makes no bound longer.
        scales = np.maximum((deviations / largest) ** power, _native.MIN_VALUE_SCALE).astype(np.float32)
        bound = _mean_bound(compared, scales, mean, exponent, threads)
        if bound < least:
            best, least = scales, bound
    return best


def _mean_bound(
    vectors: NDArray[np.float32],
    scales: NDArray[np.float32],
    mean: NDArray[np.float32],
    exponent: int,
    threads: int,
) -> float:
    """Return the mean error bound of a score, with the vectors as queries."""
    count, width = vectors.shape
    blocks = -(-count // _native.BLOCK)
    norms = np.zeros((3, blocks * _native.BLOCK), dtype=np.float32)
    _native.encode_int4(
        vectors,
        first=0,
        mean=mean,
        exponent=exponent,
        value_scales=scales,
        threads=threads,
        bytes=np.empty((blocks, _native.int4_block_bytes(width)), dtype=np.uint8),
        residuals=np.empty((blocks * _native.BLOCK, _native.residual_bytes(width)), dtype=np.uint8),
        norms=norms,
    )
    queries = np.linalg.norm(vectors * scales.astype(np.float64), axis=1)
    return float(queries.mean() * norms[1, :count].mean(dtype=np.float64))


def _spread(vectors: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """Return evenly spaced vectors, at most so many."""
    return vectors[:: max(1, -(-len(vectors) // most))]
