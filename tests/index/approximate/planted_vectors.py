"""Vectors in clusters, which lists find."""

import numpy as np

ROWS, WIDTH = 3000, 16


def clustered(rows, seed, width=WIDTH):
    centres = np.random.default_rng(99).standard_normal((60, width))
    rng = np.random.default_rng(seed)
    vectors = centres[rng.integers(0, 60, rows)] + 0.5 * rng.standard_normal((rows, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
