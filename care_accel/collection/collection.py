"""Documents on disk that change, and exact search over them."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from care_accel.collection.approximating import ApproximateCollection, Mode
from care_accel.collection.cutting.chunker import check_chunking
from care_accel.collection.reading import State
from care_accel.collection.storage import manifest as manifests
from care_accel.collection.storage import table as tables
from care_accel.collection.storage.field_types import declared
from care_accel.collection.storage.manifest import Manifest
from care_accel.collection.storage.rows import ID, checked_id
from care_accel.collection.storage.schema import schema as empty_schema
from care_accel.collection.storage.table import Table
from care_accel.collection.writing import COMMIT_SECONDS, Upserted, Writer
from care_accel.encoding.base import BaseDualEncoder
from care_accel.errors import CareError
from care_accel.progress import progress_bar

# Documents deleted in one commit.
_DELETED_AT_ONCE = 5000
# After an upsert of so many documents the index of ids is brought up to date: finding a few without it reads all ids.
_INDEXED_FROM = 10_000
# Old versions are kept so long: who has one open can go on reading, and a mistake can be looked at.
KEEP_DAYS = 7.0
# Of which no collection is older; times of more are no times.
_LONGEST_DAYS = 100_000


class Collection(ApproximateCollection):
    """Documents with own ids and typed fields, in a folder or an object store, searched exactly, or with a recall (`open`).

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
        storage_options: Mapping[str, str] | None = None,
    ) -> Collection:
        """Create an empty collection.

        Parameters
        ----------
        uri : str or Path
            A folder that is empty or missing, which only its owner can read then; or an address: ``s3://bucket/name``,
            ``gs://bucket/name``, ``file:///folder/name``.
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
        storage_options : mapping of str to str, optional
            Of an object store, such as ``aws_endpoint`` and ``aws_region``, as Lance takes them; what is missing is taken from
            the environment (``AWS_ENDPOINT``, ``AWS_ACCESS_KEY_ID``). The collection does not record them.

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
        schema = empty_schema(found.width, made.write())
        for field in declared(fields or {}):
            schema = schema.append(field)
        table = Table.create(str(uri), schema, _plain(storage_options))
        return cls(table, model=found, index_dir=index_dir, device=device, threads=threads)

    @classmethod
    def open(
        cls,
        uri: str | Path,
        *,
        model: BaseDualEncoder | str | Path | None = None,
        version: int | None = None,
        index_dir: str | Path | None = None,
        index: Mode = "exact",
        recall: float | None = None,
        device: str = "cpu",
        threads: int | None = None,
        storage_options: Mapping[str, str] | None = None,
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
        index : {"exact", "auto", "stored"}
            ``"auto"`` searches approximately where that has the recall and is faster, as measured on this machine (`explain`). It
            takes what `choose_index` stored for this recall; without it the first search chooses, which may take five minutes of a
            large collection. ``"stored"`` takes what is stored, and searches exactly where nothing is.
        recall : float, optional
            For ``"auto"``: the least share of the best hits that is found; by default what is stored, or 0.99.
        index_dir, device, threads, storage_options
            As in `create`.

        Raises
        ------
        CareError
            There is no collection, no such version, the model is another one, or an option is wrong.
        """
        table = Table.open(str(uri), version, _plain(storage_options))
        return cls(
            table,
            model=model,
            index=index,
            recall=recall,
            index_dir=index_dir,
            device=device,
            threads=threads,
            pinned=version is not None,
        )

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
        if not commit_seconds >= 0:
            raise CareError(f"commit_seconds is {commit_seconds!r}; it must be 0 or more")
        total = len(rows) if isinstance(rows, Sized) else None
        with progress_bar("indexing", total, show=show_progress) as advance:
            shown = 0

            def tell(done: Upserted) -> None:
                nonlocal shown
                advance(done.read - shown)
                shown = done.read
                if report is not None:
                    report(done)

            writer = Writer(
                self._state.table.latest(),
                self.manifest,
                self.model.encoder("document"),
                report=tell,
                stop=stop,
                commit_seconds=commit_seconds,
            )
            try:
                done = writer.write(rows, on_duplicate=on_duplicate)
                if done.new + done.changed >= _INDEXED_FROM:
                    writer.table.index_ids()
                return done
            finally:
                self.refresh()

    def preview(
        self, rows: Iterable[Mapping[str, Any]] | Any, *, report: Callable[[Upserted], None] | None = None
    ) -> tuple[Upserted, float]:
        """Count what an upsert would do, and estimate how long it would take; nothing is written.

        Parameters
        ----------
        rows, report
            As in `upsert`.

        Returns
        -------
        counts : Upserted
            ``chunks`` is the number of documents that would be encoded.
        seconds : float
            From encoding up to 64 of them.

        Raises
        ------
        CareError
            A row is wrong.
        """
        encoder = self.model.encoder("document")
        writer = Writer(
            self._state.table.latest(), self.manifest, encoder, report=report or (lambda so_far: None)
        )
        counts, some = writer.preview(rows)
        if not some:
            return counts, 0.0
        _, texts = writer.chunker.cut([d.title for d in some], [d.text for d in some])
        encoder.encode(texts[:1])  # loads the network
        begun = perf_counter()
        encoder.encode(texts)
        return counts, (perf_counter() - begun) * counts.chunks / len(some)

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
        try:
            if filter is None:
                return self._delete_ids(table, [ids] if isinstance(ids, str | int) else ids or ())
            if self.manifest.chunk_tokens:
                table.filtered(filter)  # a mistake is told in words of the fields
                found = table.read([ID], f"({filter}) AND {tables.FIRST_CHUNK}")
                return self._delete_ids(table, found[ID].to_pylist())
            count = len(table.filtered(filter, chunked=False))
            if count:  # deleting nothing would be a commit too
                table.delete_where(filter)
            return count
        finally:
            self.refresh()

    @staticmethod
    def _delete_ids(table: Table, ids: Iterable[str | int]) -> int:
        unique = list(dict.fromkeys(checked_id(value, "ids") for value in ids))
        deleted = 0
        for start in range(0, len(unique), _DELETED_AT_ONCE):
            some = unique[start : start + _DELETED_AT_ONCE]
            there = set(table.rows_of(some, [ID])[ID].to_pylist())
            if there:
                deleted += len(there)
                table = table.delete(some)
        return deleted

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
        age = datetime.timedelta(days=min(keep_days, _LONGEST_DAYS))
        table = self._state.table.latest().compact(age)
        with self._changing:
            self._state = State(table, None)
            snapshot = self.searcher().snapshot
            compacted = snapshot.compacted()
            if compacted is not snapshot:
                self._cache.replace(compacted)
                self._state = State(table, self._prepared(table, compacted))

    def _require_writable(self) -> None:
        if self._pinned:
            raise CareError(
                f"version {self.version} was opened, which can only be read; open the collection without a version"
            )


def _plain(options: Mapping[str, str] | None) -> dict[str, str] | None:
    return None if options is None else dict(options)
