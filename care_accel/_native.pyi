import numpy as np
from numpy.typing import NDArray

def scan(
    documents: NDArray[np.float32],
    queries: NDArray[np.float32],
    *,
    k: int,
    threads: int,
    instruction_set: str = "",
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return (scores, ids), ``[n, k]`` each, of the k best documents of each query.

    Both inputs are C-contiguous, ``[rows, width]``; ``TypeError`` otherwise. ``instruction_set`` forces one
    of `instruction_sets`: the result is the same for each.
    """

def instruction_sets() -> list[str]:
    """Return what the scan can use on this processor, the fastest first."""
