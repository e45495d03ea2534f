"""A collection that is open: what it holds, and search on the version that it sees."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from care_accel.collection.storage import layout
from care_accel.collection.storage import manifest as manifests
from care_accel.collection.storage import table as tables
from care_accel.collection.storage.rows import ID, FieldTypes, checked_id, documents
from care_accel.collection.storage.table import Table
from care_accel.collection.versions.cache import Cache, cache_folder
from care_accel.collection.versions.ranking import Ranked
from care_accel.collection.versions.searching import Searcher
from care_accel.collection.versions.snapshot import Snapshot
from care_accel.collection.versions.verifying import Verified, verify
from care_accel.encoding.base import BaseDualEncoder, checked_texts
from care_accel.errors import require_count
from care_accel.retriever import Hit, Timings

# A value that is longer is a text to be read, not one to choose from.
_LONGEST_VALUE = 100


class State(NamedTuple):
    """The version that is searched; replaced as a whole."""

    table: Table
    searcher: Searcher | None


class OpenCollection:
    """The parts of a `Collection` that read.

    Attributes
    ----------
    uri : str
    storage_options : dict of str to str or None
        Of the object store, as given to `Collection.open`.
    manifest : Manifest
        Model, chunking and other properties that never change.
    """

    def __init__(
        self,
        table: Table,
        *,
        model: BaseDualEncoder | str | Path | None = None,
        index_dir: str | Path | None = None,
        device: str = "cpu",
        threads: int | None = None,
        pinned: bool = False,
    ) -> None:
        self.uri = table.uri
        self.storage_options = table.storage_options
        self.manifest = manifests.read(table.metadata, table.uri)
        self._model = None if model is None else manifests.model_of(self.manifest, model, self.uri)
        self._cache = Cache(cache_folder(self.uri, index_dir), self.manifest)
        self._options: dict[str, Any] = {"device": device, "threads": threads}
        self._pinned = pinned
        self._state = State(table, None)
        self._changing = threading.RLock()

    @property
    def model(self) -> BaseDualEncoder:
        """The dual encoder of the collection; loaded at first use.

        Raises
        ------
        CareError
            It cannot be found, or has changed since.
        """
        with self._changing:
            if self._model is None:
                self._model = manifests.model_of(self.manifest, None, self.uri)
            return self._model

    @property
    def version(self) -> int:
        """Number of the version that this object sees."""
        return self._state.table.version

    @property
    def fields(self) -> dict[str, str]:
        """Names of the user's fields, and what they are."""
        return {
            name: tables.TYPE_NAMES.get(kind, str(kind)) for name, kind in self._state.table.fields.items()
        }

    def __len__(self) -> int:
        """Return the number of documents."""
        return self.count()

    def ids(self) -> list[str]:
        """Return the ids of all documents, in no order."""
        found = self._state.table.read([ID], tables.FIRST_CHUNK if self.manifest.chunk_tokens else None)
        return list(found[ID].to_pylist())

    def count(self, filter: str | None = None) -> int:
        """Return how many documents a filter leaves; all without one.

        Raises
        ------
        CareError
            The filter is wrong.
        """
        table = self._state.table
        if filter is None:
            return table.count(tables.FIRST_CHUNK if self.manifest.chunk_tokens else None)
        return len(table.filtered(filter, chunked=self.manifest.chunk_tokens is not None))

    def versions(self) -> list[dict[str, Any]]:
        """Return number, time and rows (chunks) of every version, oldest first."""
        return self._state.table.versions()

    def refresh(self) -> bool:
        """See the newest version from now on; return whether there was one. Searches that have begun end on the old one."""
        if self._pinned:
            return False
        with self._changing:
            state = self._state
            newest = state.table.latest()
            if newest is state.table:
                return False
            searcher = state.searcher
            if searcher is not None:
                searcher = self._searcher_at(newest, searcher.snapshot)
            self._state = State(newest, searcher)
            return True

    def searcher(self) -> Searcher:
        """Return the version that this object sees, ready to be searched; it stays as it is."""
        state = self._state
        if state.searcher is not None:
            return state.searcher
        with self._changing:
            state = self._state
            if state.searcher is None:
                base = self._cache.load(state.table, **self._options)
                if base is None:
                    base = Snapshot.empty(self.manifest, **self._options)
                state = State(state.table, self._searcher_at(state.table, base))
                self._state = state
            assert state.searcher is not None
            return state.searcher

    def _searcher_at(self, table: Table, base: Snapshot) -> Searcher:
        snapshot = base.at(table)
        if snapshot is not base and not self._pinned:
            self._cache.save(snapshot)
            if snapshot.read > len(snapshot.rows) // 2:  # mapped, what was read need not stay in memory
                mapped = self._cache.load(table, **self._options)
                # If it could not be saved, or another process was faster, the nearest one is of another version.
                if mapped is not None and mapped.version == table.version:
                    snapshot = mapped
        return self._prepared(table, snapshot)

    def _prepared(self, table: Table, snapshot: Snapshot) -> Searcher:
        """Return a version, ready to be searched."""
        return Searcher(table, snapshot, self.manifest)

    def get(self, ids: Sequence[str | int] | str | int) -> Any:
        """Return documents by their ids.

        Parameters
        ----------
        ids : sequence of str, or one

        Returns
        -------
        list of dict or None
            The row of each document: id, title, text and fields; None where there is none. For one id, one of these.
        """
        wanted = [ids] if isinstance(ids, str | int) else list(ids)
        names = [checked_id(value, "ids") for value in wanted]
        table = self._state.table
        columns = [ID, tables.CHUNK, tables.TITLE, tables.TEXT, *table.fields]
        found = {}
        for row in table.rows_of(list(dict.fromkeys(names)), columns).to_pylist():
            if row.pop(tables.CHUNK) == 0:
                found[row[ID]] = row
        rows = [found.get(name) for name in names]
        return rows[0] if isinstance(ids, str | int) else rows

    def field_values(self, most: int = 20) -> dict[str, dict[str, int]]:
        """Return the values of those text fields that have few different ones.

        Parameters
        ----------
        most : int
            Fields with more values are left out, and those with values of more than 100 characters.

        Returns
        -------
        dict of str to dict of str to int
            By field and value, the number of documents, the most frequent value first. Fields without any value are left
            out.
        """
        require_count("most", most)
        table = self._state.table
        found = {}
        for name, kind in table.fields.items():
            counts: Counter[str] = Counter()
            for batch in table.batches([name], tables.FIRST_CHUNK) if kind == pa.string() else ():
                counted = batch.column(0).drop_null().value_counts()
                for value, count in zip(*counted.flatten(), strict=True):
                    counts[value.as_py()] += count.as_py()
                if len(counts) > most or any(len(value) > _LONGEST_VALUE for value in counts):
                    break
            else:
                if counts:
                    found[name] = dict(sorted(counts.items(), key=lambda one: (-one[1], one[0])))
        return found

    def check_rows(self, rows: Iterable[Mapping[str, Any]] | Any) -> None:
        """Check rows as `Collection.upsert` does before it encodes them; nothing is written.

        Raises
        ------
        CareError
            A row is wrong: the message has its position and id.
        """
        for _ in documents(rows, FieldTypes(self._state.table.fields)):
            pass

    @overload  # a str is a sequence of str as well, which the checker cannot tell apart
    def search(  # type: ignore[overload-overlap]
        self,
        queries: str,
        k: int = ...,
        *,
        filter: str | None = ...,
        group: bool = ...,
        return_timings: Literal[False] = ...,
    ) -> list[Hit]: ...

    @overload
    def search(
        self,
        queries: Sequence[str],
        k: int = ...,
        *,
        filter: str | None = ...,
        group: bool = ...,
        return_timings: Literal[False] = ...,
    ) -> list[list[Hit]]: ...

    @overload
    def search(
        self,
        queries: str | Sequence[str],
        k: int = ...,
        *,
        filter: str | None = ...,
        group: bool = ...,
        return_timings: Literal[True],
    ) -> tuple[Any, Timings]: ...

    def search(
        self,
        queries: str | Sequence[str],
        k: int = 10,
        *,
        filter: str | None = None,
        group: bool = True,
        return_timings: bool = False,
    ) -> Any:
        """Return the top k documents: exactly, or with the recall that the collection was opened for.

        Parameters
        ----------
        queries : str or sequence of str
        k : int
            Hits of a query; fewer only where there are fewer documents.
        filter : str, optional
            Search only documents that this expression over their fields leaves, in SQL: ``department = '儿科' AND year >=
            2020``, ``title LIKE '%血压%'``, ``department IN ('儿科', '内科')``, ``year IS NULL``.
        group : bool
            Each document once, by its best chunk; false gives chunks.
        return_timings : bool

        Returns
        -------
        hits : list of Hit
            For a str, else one such list per query: by descending score, equal scores by id. ``document`` is the row,
            ``span`` the part of its text that matched.
        timings : Timings
            If ``return_timings``.

        Raises
        ------
        CareError
            The filter names no field or is no expression, or k is below 1.
        """
        require_count("k", k)
        texts = checked_texts([queries] if isinstance(queries, str) else queries)
        searcher = self.searcher()
        if filter is not None:
            searcher.mask(filter)  # a mistake is told before anything is encoded
        vectors, tokenise, encode = self.model.encoder("query").encode_timed(texts)
        begun = perf_counter()
        hits = searcher.hits(searcher.rank(vectors, k, texts, filter=filter, group=group))
        timings = Timings(tokenise, encode, 1e6 * (perf_counter() - begun))
        found = hits[0] if isinstance(queries, str) else hits
        return (found, timings) if return_timings else found

    def search_vectors(
        self,
        vectors: NDArray[np.float32],
        k: int = 10,
        queries: Sequence[str] | None = None,
        *,
        filter: str | None = None,
        group: bool = True,
    ) -> list[list[Hit]]:
        """Search with encoded queries, float32 ``[n, width]``; their texts are needed by a lexical index. See `search`."""
        require_count("k", k)
        searcher = self.searcher()
        ranked: list[list[Ranked]] = searcher.rank(vectors, k, queries, filter=filter, group=group)
        return searcher.hits(ranked)

    def info(self) -> dict[str, Any]:
        """Return what describes the collection: sizes, version, model, fields, index."""
        table = self._state.table
        chunks = table.count()
        described: dict[str, Any] = {
            "uri": self.uri,
            "documents": len(self),
            "chunks": chunks,
            "version": table.version,
            "versions": len(table.versions()),
            "created": self.manifest.created,
            "model": self.manifest.model,
            "revision": self.manifest.revision,
            "width": self.manifest.width,
            "order": self.manifest.order,
            "chunk_tokens": self.manifest.chunk_tokens,
            "chunk_overlap": self.manifest.chunk_overlap,
            "lexical": self.manifest.lexical,
            "fields": self.fields,
            "table_bytes": table.bytes_on_disk(),
            "index_folder": str(self._cache.folder),
            "index_bytes": layout.folder_bytes(self._cache.folder),
        }
        if (searcher := self._state.searcher) is not None:
            index = searcher.snapshot.index
            described["index_positions"] = len(index)
            described["index_removed"] = len(index) - index.alive
        return described

    def verify(self, *, encode: int = 0) -> Verified:
        """Check the collection: every document once and whole, and the index as the table.

        Parameters
        ----------
        encode : int
            Encode so many documents again, chosen at random, and compare their vectors.

        Raises
        ------
        CareError
            ``encode`` is no count.
        """
        if encode != 0:
            require_count("encode", encode)
        return verify(
            self._state.table, self.manifest, self.searcher().snapshot, self.model if encode else None, encode
        )

    def __repr__(self) -> str:
        return f"<Collection {self.uri}: {len(self)} documents, version {self.version}>"
