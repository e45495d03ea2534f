"""One query at a time by a structure of faiss: memory is used again, and faiss is called without its wrapper for arrays.

A graph of 10,000 vectors answers in some 15 us. Allocating, checking and converting what goes in and out would take as long again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from care_accel import _native
from care_accel.index.approximate.library import faiss_library, omp_threads
from care_accel.index.approximate.lists import of_length_1
from care_accel.index.parts import Found, Part


class _Memory:
    """What one search reads and writes.

    Attributes
    ----------
    asked, query : numpy.ndarray
        float32 ``[1, width]``: the query, and what faiss is given, which may be the same.
    rows : numpy.ndarray
        int64 ``[count]``.
    arguments : tuple
        Of faiss: pointers to these.
    """

    __slots__ = ("_distances", "arguments", "asked", "query", "rows")

    def __init__(self, width: int, count: int, *, apart: bool) -> None:
        self.asked = np.empty((1, width), dtype=np.float32)
        self.query = np.empty_like(self.asked) if apart else self.asked
        self.rows = np.empty(count, dtype=np.int64)
        self._distances = np.empty(count, dtype=np.float32)
        pointer = faiss_library().swig_ptr
        self.arguments = 1, pointer(self.query), count, pointer(self._distances), pointer(self.rows)


class OneQuery:
    """Finds the candidates of one query, and scores them exactly.

    Several threads may use it at once: each search takes memory that no other has.

    Parameters
    ----------
    index : object
        Of faiss, in host memory.
    width, count : int
        Of the query, and how many candidates.
    of_length_1 : bool
        Give faiss the query at a length of 1.
    ids : numpy.ndarray, optional
        int64: the id of each vector of the index, -1 for one that is gone; by default its place.
    """

    def __init__(
        self, index: Any, width: int, count: int, *, of_length_1: bool, ids: NDArray[np.int64] | None
    ) -> None:
        self._search = index.search_c
        self._width, self._count, self._of_length_1, self._ids = width, count, of_length_1, ids
        # Taking from a list and putting back are atomic.
        self._free: list[_Memory] = []

    def find(self, part: Part, query: Any, k: int, parameters: Any) -> Found | None:
        """Return the k best of the candidates, each array with one row; fewer if so many were not found.

        Parameters
        ----------
        part : Part
            With the vectors of the index; removed ones are not found.
        query : object
            None is returned for anything but a finite float32 array in C order, ``[width]`` or ``[1, width]``.
        k : int
        parameters : object
            Of the search by faiss.
        """
        try:
            memory = self._free.pop()
        except IndexError:
            memory = _Memory(self._width, self._count, apart=self._of_length_1)
        found = None
        if _native.copied(query, memory.asked):
            if self._of_length_1:
                memory.query[:] = of_length_1(memory.asked)
                with omp_threads(1):  # one-bit codes are read by several threads otherwise
                    self._search(*memory.arguments, parameters)
            else:
                self._search(*memory.arguments, parameters)
            found = _native.search_candidates(
                part.vectors, memory.rows, memory.asked, k, self._ids, part.alive
            )
        self._free.append(memory)
        return found
