"""A part of a version, ready to be searched: what one of several shards holds."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from care_accel.collection.storage.manifest import Manifest
from care_accel.collection.storage.table_part import TablePart
from care_accel.collection.versions.searching import Searcher
from care_accel.collection.versions.snapshot import Snapshot


@dataclass(frozen=True, eq=False)
class _WithoutGuests(Snapshot):
    """A snapshot whose guests cannot be found, but are there for the other chunks of their documents.

    Attributes
    ----------
    whole : Snapshot or None
        The same positions, guests among them.
    """

    whole: Snapshot | None = None

    @cached_property
    def position_of(self) -> NDArray[np.int64]:
        """Position of each row id, guests too."""
        assert self.whole is not None
        return self.whole.position_of

    @cached_property
    def first_chunk_of(self) -> NDArray[np.int64]:
        """Position of the first chunk of each document, guests too."""
        assert self.whole is not None
        return self.whole.first_chunk_of


def open_part(
    table: TablePart, manifest: Manifest, before: Snapshot | None, **options: Any
) -> tuple[Searcher, Snapshot]:
    """Read a part of a version.

    Parameters
    ----------
    table : TablePart
    manifest : Manifest
    before : Snapshot or None
        What was returned for the same part of another version: only what differs is read.
    **options
        Of `ExactIndex`: device, threads.

    Returns
    -------
    searcher : Searcher
        Finds the part's own chunks.
    snapshot : Snapshot
        For the next version.
    """
    # The words of a chunk need its document's first chunk beside it, which may have been read before.
    if before is None or (manifest.lexical and manifest.chunk_tokens is not None):
        before = Snapshot.empty(manifest, **options)
    found = before.at(table)
    guests = found.positions(table.guests())
    guests = guests[guests >= 0]
    if not len(guests):
        return Searcher(table, found, manifest), found
    index = copy.copy(found.index)
    index.remove(guests)
    lexical = None if found.lexical is None else found.lexical.with_removed(guests)
    own = _WithoutGuests(found.version, index, found.rows, lexical, whole=found)
    return Searcher(table, own, manifest), found
