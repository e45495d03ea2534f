"""What a search of an approximate index sees: its vectors and their structure. It never changes; a change makes another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from care_accel.index import parts
from care_accel.index.approximate.choice import Choice
from care_accel.index.approximate.finder import Finder
from care_accel.index.checks import Few
from care_accel.index.parts import Chosen, Found, Part


@dataclass(frozen=True, eq=False)
class State:
    """Vectors of which the first ones are in a structure.

    Parameters
    ----------
    base : tuple of Part
        The vectors that the structure was built of. They are removed, but never extended.
    tail : tuple of Part
        Those that were added since, which are scanned exactly.
    choice : Choice
    finder : Finder or None
        None if every search is an exact scan.
    fixed : int
        So many parts of the tail are left as they are by what is added: those that another structure is built of.
    """

    base: tuple[Part, ...]
    tail: tuple[Part, ...]
    choice: Choice
    finder: Finder | None
    fixed: int = 0
    built: int = field(init=False)
    # How many vectors of the structure are removed, and the parameters of a search for the others.
    removed: int = field(init=False)
    _selection: Any = field(init=False, default=None)
    # Whether a search for the hits of one query in all vectors is a search of the structure, and nothing else.
    _alone: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        alive = sum(part.alive_count for part in self.base)
        object.__setattr__(self, "built", count(self.base))
        object.__setattr__(self, "removed", self.choice.vectors - alive)
        if self.removed and self.finder is not None and self.finder.structure.selects:
            object.__setattr__(self, "_selection", self.finder.selecting(~parts.removed(self.base)))
        object.__setattr__(self, "_alone", self._is_alone())

    def _is_alone(self) -> bool:
        added = any(part.alive_count for part in self.tail)
        return not added and self._allowed(1, self.choice.k, None) is not None

    @property
    def parts(self) -> tuple[Part, ...]:
        """All vectors."""
        return (*self.base, *self.tail)

    @property
    def changed(self) -> int:
        """How many vectors were added or removed since the structure was built."""
        return self.removed + count(self.tail)

    def extended(self, rows: NDArray[np.float32], threads: int) -> State:
        """Return this and more vectors."""
        scan = self.base[0].scan
        tail = self.tail[self.fixed :] or (Part.empty(rows.shape[1], scan and scan.another()),)
        # Not `replace`, which would select again what is in the structure.
        return self._with(tail=(*self.tail[: self.fixed], *parts.extended(tail, rows, threads)))

    def without(self, ids: NDArray[np.int64]) -> State:
        """Return this with vectors removed."""
        kept = parts.without(self.parts, ids)
        return replace(self, base=kept[: len(self.base)], tail=kept[len(self.base) :])

    def saved(self, kept: tuple[Part, ...]) -> State:
        """Return this with the parts that `store.save` returned, which are those with vectors."""
        base = kept[: sum(part.count > 0 for part in self.base)]
        fixed = sum(part.count > 0 for part in self.tail[: self.fixed])
        return replace(self, base=base or self.base, tail=kept[len(base) :], fixed=fixed)

    def fixing(self) -> State:
        """Return this, ready for `rebuilt`: what is added from now on is kept apart."""
        return self._with(fixed=len(self.tail))

    def rebuilt(self, choice: Choice, finder: Finder | None) -> State:
        """Return this with a structure of what was there when it was fixed; what changed since is as it is here."""
        fixed = self.tail[: self.fixed]
        return State((*self.base, *fixed), self.tail[self.fixed :], choice, finder)

    def _with(self, **changes: Any) -> State:
        other = object.__new__(State)
        for name, value in (vars(self) | changes).items():
            object.__setattr__(other, name, value)
        object.__setattr__(other, "_alone", other._is_alone())
        return other

    def find_one(self, query: Any, k: Any) -> Found | None:
        """Return what `search` returns for one query in all vectors, in less time; None where that has to be called.

        Parameters
        ----------
        query : object
            Anything; see `Finder.find_one`.
        k : object
        """
        if not self._alone or type(k) is not int or not 0 < k <= self.choice.k:
            return None
        assert self.finder is not None
        found = self.finder.find_one(self.base, query, k, self._selection)
        # Lists may hold fewer: what is missing is scanned for.
        return None if found is None or found[1].item(k - 1) < 0 else found

    def search(self, queries: NDArray[np.float32], k: int, threads: int, chosen: Chosen) -> Found:
        """Return the k best that are found: of all, or of chosen ones."""
        share = self._approximated(queries, k, chosen)
        if share is None:
            return parts.search(self.parts, queries, k, threads, chosen)
        assert self.finder is not None
        assert not isinstance(chosen, Few)
        own = None if chosen is None else chosen[: self.built] & ~parts.removed(self.base)
        selection = self._selection if own is None else self.finder.selecting(own)
        found = self.finder.find(self.base, queries, k, threads, selection)
        # Lists may hold fewer: what is missing is scanned for.
        wanted = min(k, round(share * self.choice.vectors))
        last = found[1][:, wanted - 1] if wanted else found[1][:0, 0]
        if (last[0] < 0) if len(last) == 1 else (last < 0).any():
            short = np.flatnonzero(last < 0)
            whole = parts.search(self.base, queries[short], k, threads, own)
            for array, other in zip(found, whole, strict=True):
                array[short] = other
        if not any(part.alive_count for part in self.tail):
            return found
        rest = parts.search(self.tail, queries, k, threads, None if chosen is None else chosen[self.built :])
        return parts.merged([0, self.built], [found, rest], k)

    def _share(self, chosen: Chosen) -> float:
        """Return which share of the structure's vectors a search may find."""
        if self.finder is None or isinstance(chosen, Few):
            return 0.0
        if chosen is None:
            return 1 - self.removed / self.choice.vectors
        own = chosen[: self.built]
        if self.removed or self.finder.ids is not None:
            own = own & ~parts.removed(self.base)
        return np.count_nonzero(own) / self.choice.vectors

    def exact(self, chosen: Chosen) -> Callable[[NDArray[np.float32], int], NDArray[np.float64]]:
        """Return what finds the scores of the k best exactly, by one thread."""
        return lambda queries, k: parts.search(self.parts, queries, k, 1, chosen)[0]

    def approximates(self, queries: NDArray[np.float32], k: int, chosen: Chosen) -> bool:
        """Return whether a search uses the structure; else it is an exact scan."""
        return self._approximated(queries, k, chosen) is not None

    def _approximated(self, queries: NDArray[np.float32], k: int, chosen: Chosen) -> float | None:
        """Return which share of the structure's vectors a search by it may find; None if it is an exact scan."""
        if queries.shape[1] != self.choice.width:
            return None
        return self._allowed(len(queries), k, chosen)

    def _allowed(self, queries: int, k: int, chosen: Chosen) -> float | None:
        if self.finder is None:
            return None
        share = self._share(chosen)
        selects = share == 1 or self.finder.structure.selects
        allowed = selects and self.choice.allows(queries, k, share, subset=chosen is not None)
        return share if allowed else None


def count(some: tuple[Part, ...]) -> int:
    """Return the number of vectors of some parts."""
    return sum(part.count for part in some)
