"""The parts of an index: consecutive vectors with their codes, each read by one scan, and hits of several of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from care_accel import _native
from care_accel.index.checks import Few
from care_accel.index.codes import Codes
from care_accel.index.cuda import CudaScan

if TYPE_CHECKING:
    from care_accel.index.saved_file import SavedFile

# Scores in float64, ids, and how many vectors were rescored: float64 and int64 [n, k], int64 [n].
Found = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]

# The vectors that a search may find: all, those of a mask, or a few.
Chosen = NDArray[np.bool_] | Few | None

_FIRST_CAPACITY = 1024
# Parts of as many bytes of vectors are not copied to be joined with others: a scan takes so long to read one that another
# part costs nothing.
_LARGEST_JOINED = 2**30


class SearchStats(NamedTuple):
    """Statistics of a search.

    Attributes
    ----------
    rescored : numpy.ndarray
        int64 ``[n]``: how many vectors were scored exactly for each query; a scalar for one query. With several
        threads it may differ a little between runs; hits do not.
    """

    rescored: NDArray[np.int64]


class Part:
    """Consecutive vectors of an index and their codes, and which of them may be found.

    A part never changes, so that a change of the index leaves searches alone that have begun. `extended` and `without`
    return another part, which shares memory with this one.

    Parameters
    ----------
    stored : numpy.ndarray
        float32 ``[capacity, width]``.
    codes : Codes
        Of the first ``codes.count`` of them, which are the part.
    scan : CudaScan, optional
        Search a copy on a GPU.
    alive : numpy.ndarray, optional
        uint16 ``[blocks]``: bits of the vectors that may be found, the first one lowest; by default all may be.
    files : mapping of str to SavedFile, optional
        The files that hold these vectors and codes, by name.

    Attributes
    ----------
    count : int
        Number of vectors.
    vectors : numpy.ndarray
        float32 ``[count, width]``, read-only.
    alive_count : int
        Number of vectors that may be found.
    """

    def __init__(
        self,
        stored: NDArray[np.float32],
        codes: Codes,
        *,
        scan: CudaScan | None = None,
        alive: NDArray[np.uint16] | None = None,
        files: Mapping[str, SavedFile] | None = None,
    ) -> None:
        self.stored = stored
        self.codes = codes
        self.count = codes.count
        self.vectors: NDArray[np.float32] = np.asarray(stored[: self.count])
        self.vectors.flags.writeable = False
        self.scan = scan
        self.alive = alive
        self.alive_count = self.count if alive is None else _count_bits(alive)
        self.files = files
        self._arguments = codes.search_arguments()

    @classmethod
    def empty(cls, width: int, scan: CudaScan | None = None) -> Part:
        """Return a part without vectors."""
        return cls(np.empty((0, width), dtype=np.float32), Codes(width), scan=scan)

    @property
    def removed(self) -> NDArray[np.bool_]:
        """Mask of the vectors that are never found, ``[count]``."""
        if self.alive is None:
            return np.zeros(self.count, dtype=bool)
        return ~_bits(self.alive, self.count)

    @property
    def in_memory(self) -> bool:
        """Whether the part grows without being copied."""
        return bool(self.stored.flags.writeable)

    def search(self, queries: NDArray[np.float32], k: int, threads: int, chosen: Chosen = None) -> Found:
        """Return the k best of some vectors for each query, numbered from 0."""
        if isinstance(chosen, Few):
            rows = chosen.ids if self.alive is None else chosen.ids[self._is_alive(chosen.ids)]
            scores, ids = _native.search_rows(self.vectors, rows, queries=queries, k=k, threads=threads)
            return scores, ids, np.full(len(queries), len(rows), dtype=np.int64)
        allowed = self.allowed(chosen)
        if self.scan is not None:
            return self.scan.search(self.vectors, self.codes, queries, k, allowed)
        return _native.search(
            self.vectors, **self._arguments, queries=queries, k=k, threads=threads, allowed=allowed
        )

    def search_on_device(
        self, queries: Any, k: int, mask: NDArray[np.bool_] | None, stream: int | None
    ) -> tuple[Any, Any]:
        """Return (scores, ids) in GPU memory; the part must be on a GPU."""
        assert self.scan is not None
        return self.scan.search_on_device(self.vectors, self.codes, queries, k, self.allowed(mask), stream)

    def allowed(self, mask: NDArray[np.bool_] | None) -> NDArray[np.uint16] | None:
        """Return the bits of the vectors that are alive and in a mask; None for all."""
        if mask is None:
            return self.alive
        words = _words(mask)
        return words if self.alive is None else words & self.alive

    def _is_alive(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        assert self.alive is not None
        bits = self.alive[ids // _native.BLOCK] >> (ids % _native.BLOCK).astype(np.uint16)
        return (bits & np.uint16(1)).astype(bool)

    def extended(
        self, rows: NDArray[np.float32], threads: int, removed: NDArray[np.bool_] | None = None
    ) -> Part:
        """Return this part and more vectors, of which some may be removed; of parts that share memory only the longest can be.

        Parameters
        ----------
        rows : numpy.ndarray
            float32 ``[n, width]``, finite.
        threads : int
        removed : numpy.ndarray, optional
            bool ``[n]``.
        """
        count = self.count + len(rows)
        stored = self.stored
        if count > len(stored) or not self.in_memory:
            # Capacity doubles, so that adding vectors one by one costs as much as adding them at once.
            stored = np.empty(
                (max(count, 2 * self.count, _FIRST_CAPACITY), stored.shape[1]), dtype=np.float32
            )
            stored[: self.count] = self.vectors
        stored[self.count : count] = rows
        codes = self.codes.extended(stored[:count], threads)
        # The scan stays the same: it frees its copy before it makes the next.
        return Part(stored, codes, scan=self.scan, alive=self._extended_alive(count, removed))

    def without(self, ids: NDArray[np.int64]) -> Part:
        """Return this part with vectors removed, numbered from 0."""
        alive = _all_bits(self.count) if self.alive is None else self.alive.copy()
        np.bitwise_and.at(
            alive, ids // _native.BLOCK, ~(np.uint16(1) << (ids % _native.BLOCK).astype(np.uint16))
        )
        return self._changed(alive=alive)

    def saved(self, files: Mapping[str, SavedFile]) -> Part:
        """Return this part as saved in some files."""
        return self._changed(files=files)

    def searched_by(self, scan: CudaScan) -> Part:
        """Return this part on a GPU."""
        return self._changed(scan=scan)

    def _changed(self, **changes: Any) -> Part:
        kept = {"scan": self.scan, "alive": self.alive, "files": self.files}
        return Part(self.stored, self.codes, **kept | changes)

    def _extended_alive(self, count: int, removed: NDArray[np.bool_] | None) -> NDArray[np.uint16] | None:
        if self.alive is None and (removed is None or not removed.any()):
            return None
        if removed is not None and removed.any():
            return _words(~np.concatenate([self.removed, removed]))
        assert self.alive is not None
        alive, last = _all_bits(count), self.count // _native.BLOCK
        alive[:last] = self.alive[:last]
        if in_last := self.count % _native.BLOCK:
            alive[last] &= self.alive[last] | np.uint16(0xFFFF << in_last & 0xFFFF)
        return alive


def extended(parts: Sequence[Part], rows: NDArray[np.float32], threads: int) -> tuple[Part, ...]:
    """Return parts and more vectors.

    The new vectors go to the last part, if that is in memory and not saved. Otherwise they become a part of their own,
    which takes in those before it that are at most twice as large: a part is more than twice as large as the next, so that
    there are few of them, and a vector is copied but a few times.

    Parameters
    ----------
    parts : sequence of Part
        At least one.
    rows : numpy.ndarray
        float32 ``[n, width]``, finite.
    threads : int
    """
    if len(rows) == 0:
        return tuple(parts)
    last = parts[-1]
    first = len(parts)
    size = len(rows)
    if last.in_memory and last.files is None:
        first -= 1
        size += last.count
    while first and parts[first - 1].count <= 2 * size and parts[first - 1].vectors.nbytes < _LARGEST_JOINED:
        first -= 1
        size += parts[first].count
    if first == len(parts):
        return (*parts, Part.empty(rows.shape[1], last.scan and last.scan.another()).extended(rows, threads))
    return (*parts[:first], joined(parts[first:], threads, rows))


def joined(parts: Sequence[Part], threads: int, rows: NDArray[np.float32] | None = None) -> Part:
    """Return one part of several, and of more vectors."""
    first, *others = parts
    blocks = [part.vectors for part in others] + ([] if rows is None else [rows])
    if not blocks:
        return first
    masks = [part.removed for part in others] + ([] if rows is None else [np.zeros(len(rows), dtype=bool)])
    if len(blocks) == 1:
        return first.extended(blocks[0], threads, masks[0])
    return first.extended(np.concatenate(blocks), threads, np.concatenate(masks))


def without(parts: Sequence[Part], ids: NDArray[np.int64]) -> tuple[Part, ...]:
    """Return parts with vectors removed; the ids exist, and may repeat or be removed already."""
    chosen = np.unique(ids)
    starts = np.cumsum([0, *(part.count for part in parts)])
    own = np.split(chosen, np.searchsorted(chosen, starts[1:-1]))
    return tuple(
        part.without(some - start) if len(some) else part
        for part, start, some in zip(parts, starts[:-1], own, strict=True)
    )


def vectors(parts: Sequence[Part]) -> NDArray[np.float32]:
    """Return all vectors, read-only: a view of one part, a copy of several."""
    if len(parts) == 1:
        return parts[0].vectors.view()
    whole = np.concatenate([part.vectors for part in parts])
    whole.flags.writeable = False
    return whole


def removed(parts: Sequence[Part]) -> NDArray[np.bool_]:
    """Return a read-only mask of the removed vectors."""
    mask = np.concatenate([part.removed for part in parts])
    mask.flags.writeable = False
    return mask


def compacted(parts: Sequence[Part], threads: int) -> Part:
    """Return one part, in memory, of all vectors that are not removed."""
    first = parts[0]
    kept = np.empty((sum(part.alive_count for part in parts), first.stored.shape[1]), dtype=np.float32)
    at = 0
    for part in parts:
        end = at + part.alive_count
        # With mode="raise" NumPy would copy the result once more.
        np.take(part.vectors, np.flatnonzero(~part.removed), axis=0, out=kept[at:end], mode="clip")
        at = end
    codes = Codes(first.stored.shape[1], first.codes.int4_min_bytes)
    return Part(kept, codes.extended(kept, threads), scan=first.scan)


def search(
    parts: Sequence[Part], queries: NDArray[np.float32], k: int, threads: int, chosen: Chosen = None
) -> Found:
    """Return the k best vectors of all parts; only the chosen ones of all."""
    if len(parts) == 1:
        return parts[0].search(queries, k, threads, chosen)
    starts = accumulate((part.count for part in parts), initial=0)
    placed = [(start, part) for start, part in zip(starts, parts, strict=False) if part.alive_count]
    placed = placed or [(0, parts[0])]
    found = [
        part.search(queries, k, threads, _of_part(chosen, start, start + part.count))
        for start, part in placed
    ]
    return merged([start for start, _ in placed], found, k)


def _of_part(chosen: Chosen, start: int, end: int) -> Chosen:
    if isinstance(chosen, Few):
        first, last = np.searchsorted(chosen.ids, (start, end))
        return Few(chosen.ids[first:last] - start)
    return None if chosen is None else chosen[start:end]


def merged(starts: Iterable[int], found: Iterable[Found], k: int) -> Found:
    """Return the k best hits of several sets of consecutive vectors, as one scan over all of them finds them.

    Hits are compared by their float64 scores, then by their ids, so that the division changes nothing.

    Parameters
    ----------
    starts : iterable of int
        Id of the first vector of each set.
    found : iterable of tuple
        Scores, ids from 0 on (-1 for none) and rescored counts of each set.
    k : int
    """
    scores, ids, rescored = zip(*found, strict=True)
    every_score = np.concatenate(scores, axis=1)
    every_id = np.concatenate(
        [np.where(own >= 0, own + start, -1) for own, start in zip(ids, starts, strict=True)], axis=1
    )
    best = np.lexsort((every_id, -every_score), axis=-1)[:, :k]
    return (
        np.take_along_axis(every_score, best, axis=1),
        np.take_along_axis(every_id, best, axis=1),
        np.sum(rescored, axis=0, dtype=np.int64),
    )


def _words(mask: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Return a mask as bits, one 16-bit word per block."""
    padded = np.zeros(-(-len(mask) // _native.BLOCK) * _native.BLOCK, dtype=bool)
    padded[: len(mask)] = mask
    return np.packbits(padded, bitorder="little").view("<u2").astype(np.uint16, copy=False)


def _all_bits(count: int) -> NDArray[np.uint16]:
    words = np.full(-(-count // _native.BLOCK), 0xFFFF, dtype=np.uint16)
    if in_last := count % _native.BLOCK:
        words[-1] = (1 << in_last) - 1
    return words


def _count_bits(words: NDArray[np.uint16]) -> int:
    return int.from_bytes(words.tobytes(), "little").bit_count()


def _bits(words: NDArray[np.uint16], count: int) -> NDArray[np.bool_]:
    return np.unpackbits(words.astype("<u2", copy=False).view(np.uint8), count=count, bitorder="little").view(
        bool
    )
