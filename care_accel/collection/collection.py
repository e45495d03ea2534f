"""Documents on disk that change, and exact search over them."""

from __future__ import annotations

import datetime
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from care_accel.collection import manifest as manifests
from care_accel.collection import table as tables
from care_accel.collection.cache import Cache, cache_folder
from care_accel.collection.chunks import check_chunking
from care_accel.collection.field_types import declared
from care_accel.collection.manifest import Manifest
from care_accel.collection.ranking import Ranked
from care_accel.collection.rows import ID, checked_id
from care_accel.collection.searching import Searcher
from care_accel.collection.snapshot import Snapshot
from care_accel.collection.table import Table
from care_accel.collection.verifying import Verified, verify
from care_accel.collection.writing import COMMIT_SECONDS, Upserted, Writer
from care_accel.encoding.base import BaseDualEncoder, checked_texts
from care_accel.errors import CareError, require_count
from care_accel.progress import progress_bar
from care_accel.retriever import Hit, Timings

# Documents deleted in one commit.
_DELETED_AT_ONCE = 5000
# Old versions are kept so long: who has one open can go on reading, and a mistake can be looked at.
KEEP_DAYS = 7.0


class _State(NamedTuple):
    """The version that is searched; replaced as a whole."""

    table: Table
    searcher: Searcher | None


class Collection:
    """Documents with own ids and typed fields, in a folder or an object store, searched exactly.

    The table (Lance) is the truth: one commit changes all of a document, and every commit makes a version. The index is
    derived from it and kept beside it. A search runs on one version as a whole. This object sees its own changes at the next
    search, and those of others after `refresh`.

    Several processes may read and write one collection, and several threads may search this object.

    Create one with `create`, open one with `open`.

    Attributes
    ----------
    uri : str
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
        self.manifest = manifests.read(table.metadata, table.uri)
        self._model = None if model is None else manifests.model_of(self.manifest, model, self.uri)
        self._cache = Cache(cache_folder(self.uri, index_dir), self.manifest)
        self._options: dict[str, Any] = {"device": device, "threads": threads}
        self._pinned = pinned
        self._state = _State(table, None)
        self._changing = threading.RLock()

    @classmethod
    def create(
        cls,
        uri: str | Path,
        model: BaseDualEncoder | str | Path = "care-mini",
        *,
        fields: Mapping[str, str] | None = None,
        chunk_tokens: int | None = None,
        chunk_overlap: int = 0,
        lexical: bool = False,
        index_dir: str | Path | None = None,
        device: str = "cpu",
        threads: int | None = None,
    ) -> Collection:
        """Create an empty collection.

        Parameters
        ----------
        uri : str or Path
            A folder that is empty or missing, which only its owner can read then; or an address of an object store, such as
            ``s3://bucket/name``.
        model : DualEncoder, str or Path
            A model, or the folder or name of one. Its document encoder makes all vectors of the collection.
        fields : mapping of str to str, optional
            Types of the fields: ``text``, ``int``, ``float``, ``bool``, ``date``, ``time``, ``texts``. Others are added by the
            first row that has them.
        chunk_tokens : int, optional
            Cut documents into chunks of so many tokens at most, at ends of sentences. By default a document is one chunk,
            cut off where the model ends.
        chunk_overlap : int
            Tokens at most that a chunk repeats of the one before.
        lexical : bool
            Keep a lexical index (BM25) too, and fuse both rankings.
        index_dir : str or Path, optional
            Folder of the derived index; by default ``index`` in the collection's folder.
        device : str
            Where the scan runs, as in `ExactIndex`.
        threads : int, optional
            Threads of a search.

        Raises
        ------
        CareError
            The folder is not empty, or an option is wrong.
        """
        found = manifests.open_model(model)
        if chunk_tokens is not None or chunk_overlap:
            check_chunking(chunk_tokens, chunk_overlap, found.encoder("document"))
        spec = found.spec("document")
        made = Manifest(
            uuid=uuid.uuid4().hex,
            model=found.name,
            revision=found.revision("document"),
            width=found.width,
            order=spec.order,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            prompts=dict(spec.prompts),
            load=manifests.load_arguments(model),
            chunk_tokens=chunk_tokens,
            chunk_overlap=chunk_overlap,
            lexical=lexical,
        )
        schema = tables.schema(found.width, made.write())
        for field in declared(fields or {}):
            schema = schema.append(field)
        table = Table.create(str(uri), schema)
        return cls(table, model=found, index_dir=index_dir, device=device, threads=threads)

    @classmethod
    def open(
        cls,
        uri: str | Path,
        *,
        model: BaseDualEncoder | str | Path | None = None,
        version: int | None = None,
        index_dir: str | Path | None = None,
        device: str = "cpu",
        threads: int | None = None,
    ) -> Collection:
        """Open a collection.

        Parameters
        ----------
        uri : str or Path
        model : DualEncoder, str or Path, optional
            The model where it has moved to; by default the one that the collection records. It must be the same, by its
            revision. Loaded when it is needed first.
        version : int, optional
            Stay at this version, which can only be read.
        index_dir, device, threads
            As in `create`.

        Raises
        ------
        CareError
            There is no collection, no such version, or the model is another one.
        """
        table = Table.open(str(uri), version)
        return cls(
            table,
            model=model,
            index_dir=index_dir,
            device=device,
            threads=threads,
            pinned=version is not None,
        )

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
        table.check_filter(filter)
        return len(table.filtered(filter))

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
            self._state = _State(newest, searcher)
            return True

    def searcher(self) -> Searcher:
        """Return the version that this object sees, ready to be searched; it stays as it is."""
        state = self._state
        if state.searcher is not None:
            return state.searcher
        with self._changing:
            state = self._state
            if state.searcher is None:
                base = self._cache.load(state.table.version, **self._options)
                if base is None:
                    base = Snapshot.empty(self.manifest, **self._options)
                state = _State(state.table, self._searcher_at(state.table, base))
                self._state = state
            assert state.searcher is not None
            return state.searcher

    def _searcher_at(self, table: Table, base: Snapshot) -> Searcher:
        snapshot = base.at(table)
        if snapshot is not base and not self._pinned:
            self._cache.save(snapshot)
            if snapshot.read > len(snapshot.rows) // 2:  # mapped, what was read need not stay in memory
                snapshot = self._cache.load(table.version, **self._options) or snapshot
        return Searcher(table, snapshot, self.manifest)

    def upsert(
        self,
        rows: Iterable[Mapping[str, Any]] | Any,
        *,
        on_duplicate: Literal["last", "error"] = "last",
        commit_seconds: float = COMMIT_SECONDS,
        show_progress: bool = False,
        report: Callable[[Upserted], None] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Upserted:
        """Insert documents, and replace those whose ids are there.

        Only new and changed texts are encoded. What is encoded is committed every minute, and once more at the end, after an
        error or Ctrl-C too: the same call again goes on where this one ended.

        Parameters
        ----------
        rows : iterable of mapping, or pyarrow.Table
            Each with ``id`` (a text, or an integer, which becomes its digits), ``text``, optionally ``title``, and any
            fields: texts, numbers, true or false, dates, lists of texts; None is as good as no field.
        on_duplicate : {"last", "error"}
            What to do with an id that comes twice: take the last row, or raise an error.
        commit_seconds : float
            Seconds of work between two commits.
        show_progress : bool
            Show a progress bar on a terminal.
        report : callable, optional
            Called with the `Upserted` so far after every step.
        stop : callable
            Asked after every step; true ends the call with a commit.

        Returns
        -------
        Upserted
            How many were new, changed and the same, and more.

        Raises
        ------
        CareError
            A row is wrong: the message has its position and id, and rows before it are committed.
        """
        self._require_writable()
        if on_duplicate not in ("last", "error"):
            raise CareError(f"on_duplicate is {on_duplicate!r}; it must be 'last' or 'error'")
        total = len(rows) if isinstance(rows, Sized) else None
        with self._changing:
            self._state = _State(self._state.table.latest(), self._state.searcher)
        with progress_bar("indexing", total, show=show_progress) as advance:
            shown = 0

            def tell(done: Upserted) -> None:
                nonlocal shown
                advance(done.rows - shown)
                shown = done.rows
                if report is not None:
                    report(done)

            writer = Writer(
                self._state.table,
                self.manifest,
                self.model.encoder("document"),
                report=tell,
                stop=stop,
                commit_seconds=commit_seconds,
            )
            try:
                return writer.write(rows, on_duplicate=on_duplicate)
            finally:
                self.refresh()

    def delete(self, ids: Sequence[str | int] | str | None = None, *, filter: str | None = None) -> int:
        """Delete documents.

        Parameters
        ----------
        ids : sequence of str, or str
            Ids that do not exist are fine.
        filter : str, optional
            Instead of ids: all documents that this expression leaves, as in `search`.

        Returns
        -------
        int
            How many were deleted.

        Raises
        ------
        CareError
            Neither or both are given, or the filter is wrong.
        """
        self._require_writable()
        if (ids is None) == (filter is None):
            raise CareError("delete takes ids or a filter: give one of them")
        table = self._state.table.latest()
        before = table.count(tables.FIRST_CHUNK)
        try:
            if filter is not None:
                table.check_filter(filter)
            if filter is not None and not self.manifest.chunk_tokens:
                table = table.delete_where(filter)
            else:
                wanted = [ids] if isinstance(ids, str | int) else ids
                if filter is not None:
                    found = table.read([ID], f"({filter}) AND {tables.FIRST_CHUNK}")
                    wanted = found[ID].to_pylist()
                unique = list(dict.fromkeys(checked_id(value, "ids") for value in wanted or ()))
                before = after = 0
                for start in range(0, len(unique), _DELETED_AT_ONCE):
                    some = unique[start : start + _DELETED_AT_ONCE]
                    there = table.rows_of(some, [ID])
                    if len(there):
                        before += len(set(there[ID].to_pylist()))
                        table = table.delete(some)
                return before - after
            return before - table.count(tables.FIRST_CHUNK)
        finally:
            self.refresh()

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
        """Return the top k documents, exactly.

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
            "index_bytes": tables.folder_bytes(self._cache.folder),
        }
        if (searcher := self._state.searcher) is not None:
            index = searcher.snapshot.index
            described["index_positions"] = len(index)
            described["index_removed"] = len(index) - index.alive
        return described

    def compact(self, *, keep_days: float = KEEP_DAYS) -> None:
        """Merge small files, drop what was deleted from index and table, and remove old versions.

        Parameters
        ----------
        keep_days : float
            Versions younger than this stay, and with them the texts of documents deleted since. 0 removes all but the
            newest: do this while nobody writes.
        """
        self._require_writable()
        if not keep_days >= 0:
            raise CareError(f"keep_days is {keep_days!r}; it must be 0 or more")
        table = self._state.table.latest().compact(datetime.timedelta(days=keep_days))
        with self._changing:
            self._state = _State(table, None)
            snapshot = self.searcher().snapshot
            compacted = snapshot.compacted()
            if compacted is not snapshot:
                self._cache.replace(compacted)
                self._state = _State(table, Searcher(table, compacted, self.manifest))

    def verify(self, *, encode: int = 0) -> Verified:
        """Check the collection: every document once and whole, and the index as the table.

        Parameters
        ----------
        encode : int
            Encode so many documents again, chosen at random, and compare their vectors.
        """
        return verify(
            self._state.table, self.manifest, self.searcher().snapshot, self.model if encode else None, encode
        )

    def _require_writable(self) -> None:
        if self._pinned:
            raise CareError(
                f"version {self.version} was opened, which can only be read; open the collection without a version"
            )

    def __repr__(self) -> str:
        return f"<Collection {self.uri}: {len(self)} documents, version {self.version}>"
