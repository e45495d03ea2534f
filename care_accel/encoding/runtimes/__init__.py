"""Runtimes that execute a network: one protocol, one class per runtime."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Runtime(Protocol):
    """Token ids to embeddings: the network, pooling, slicing and normalising."""

    device: str

    def __call__(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Encode one padded batch, ``[batch, tokens]`` each, to float32 ``[batch, width]``."""
        ...


__all__ = ["Runtime"]
