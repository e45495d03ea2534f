"""LRU cache of text vectors.

A text's vector depends only on the text and its task, so a cached one is exact.

The server's own response cache is not used: release 2.51 also caches errors, and returns them as responses without
outputs; and it returns a response with some outputs to a request for all of them.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from care_accel.encoding import Task


class VectorCache:
    """LRU cache of vectors, keyed by a hash of task and text (`key_of`); texts are not stored.

    Parameters
    ----------
    capacity : int
        Maximum number of texts; 0 disables the cache.

    Attributes
    ----------
    capacity : int
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._kept: OrderedDict[bytes, tuple[NDArray[np.float32], int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes) -> tuple[NDArray[np.float32], int] | None:
        """Return a text's vector and its token count; None on a miss."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, key: bytes, vector: NDArray[np.float32], tokens: int) -> None:
        """Store a text's vector; evict the least recently used one."""
        # A copy: a view would keep the whole batch in memory.
        self._kept[key] = vector.copy(), tokens
        if len(self._kept) > self.capacity:
            self._kept.popitem(last=False)


def key_of(text: str, task: Task) -> bytes:
    """Return the key of a text."""
    return blake2b(f"{task} {text}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
