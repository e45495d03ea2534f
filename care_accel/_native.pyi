import numpy as np
from numpy.typing import NDArray

def scan(
    documents: NDArray[np.float32], queries: NDArray[np.float32], *, k: int, threads: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return (scores, ids), ``[n, k]`` each, of the k best documents of each query.

    Both inputs are C-contiguous, ``[rows, width]``; ``TypeError`` otherwise.
    """
