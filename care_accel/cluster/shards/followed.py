"""A collection that a router of its shards follows by its table."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from care_accel.cluster.shards.answers import Newest
from care_accel.collection.storage import manifest as manifests
from care_accel.collection.storage.table import FIRST_CHUNK, Table


class FollowedTable:
    """A collection whose table can be read here.

    Parameters
    ----------
    uri : str
        Of the collection.
    storage_options : mapping of str to str, optional
        Of an object store, as in `Collection.open`.

    Attributes
    ----------
    manifest : Manifest

    Raises
    ------
    CareError
        It cannot be read.
    """

    def __init__(self, uri: str, storage_options: Mapping[str, str] | None = None) -> None:
        self._table = Table.open(uri, None, None if storage_options is None else dict(storage_options))
        self.manifest = manifests.read(self._table.metadata, uri)
        self._known: Newest | None = None

    @property
    def lexical(self) -> bool:
        """Whether it has a lexical index."""
        return self.manifest.lexical

    def look(self) -> Newest:
        """Return its newest version."""
        self._table = table = self._table.latest()
        known = self._known
        if known is None or known.version != table.version:
            condition = FIRST_CHUNK if self.manifest.chunk_tokens else None
            self._known = known = Newest(table.version, table.count(condition))
        return known

    async def newest(self) -> Newest:
        """Return its newest version."""
        return await asyncio.to_thread(self.look)
