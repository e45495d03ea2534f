"""The vectors of texts that were encoded lately: the same question is often asked again.

A text's vector depends on nothing but the text and its task, so a kept one is as good as a new one.

The server has a response cache of its own, which is not used: release 2.51 keeps a refusal as well, and hands it out
the next time as an answer without outputs; and an answer to a request that asked for some outputs is given to one that
asked for all.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from care_accel.encoding import Task


class VectorCache:
    """Keeps the vectors of the texts that were used last; texts themselves are not kept, only a hash of each.

    Parameters
    ----------
    capacity : int
        Texts; 0 keeps none.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[bytes, tuple[NDArray[np.float32], int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, text: str, task: Task) -> tuple[NDArray[np.float32], int] | None:
        """Return a text's vector and its number of tokens, None if they are not kept."""
        if not self._capacity:
            return None
        key = _key(text, task)
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, text: str, task: Task, vector: NDArray[np.float32], tokens: int) -> None:
        """Keep a text's vector, in the place of the one that was not used for longest."""
        if not self._capacity:
            return
        # A copy: a row of a batch would keep the whole batch in memory.
        self._kept[_key(text, task)] = vector.copy(), tokens
        if len(self._kept) > self._capacity:
            self._kept.popitem(last=False)


def _key(text: str, task: Task) -> bytes:
    return blake2b(f"{task} {text}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
