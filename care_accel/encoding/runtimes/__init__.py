"""Runtimes that execute a network: one protocol, one class per runtime."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

# In the mask of a batch: 0 at padding, 1 at a token, and this at a token that attention sees and pooling leaves out.
UNPOOLED = 2


class Runtime(Protocol):
    """Token ids to embeddings: the network, pooling, dense layers, slicing and normalising."""

    device: str

    def __call__(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Encode one padded batch, ``[batch, tokens]`` each, to float32 ``[batch, width]``."""
        ...


class PackedRuntime(Runtime, Protocol):
    """A runtime that can do without padding: an encoder gives it token ids of texts as they are, in place of ``__call__``."""

    def packs(self, rows: Sequence[Sequence[int]]) -> bool:
        """Return whether `encode_rows` is the way for these texts; if not, an encoder pads them."""
        ...

    def encode_rows(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Encode the token ids of some texts to float32 ``[texts, width]``."""
        ...


__all__ = ["UNPOOLED", "PackedRuntime", "Runtime"]
