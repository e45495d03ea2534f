"""Upserts: of rows, what is new or changed is encoded and committed, in steps that a killed run keeps."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter
from typing import Any, Literal

import pyarrow as pa

from care_accel.collection.making import RowMaker, Stored, with_fields
from care_accel.collection.storage.manifest import Manifest
from care_accel.collection.storage.rows import Document, FieldTypes, documents
from care_accel.collection.storage.table import Table
from care_accel.encoding.base import BaseEncoder
from care_accel.errors import CareError

log = logging.getLogger(__name__)

# Documents that are looked up and encoded together, at most: enough to batch texts of similar length. Fewer, where so many
# take longer than some seconds: after each piece progress is told, and Ctrl-C is heard.
_PIECE = 1024
_SMALLEST_PIECE = 128
_PIECE_SECONDS = 4.0
# A commit writes what was encoded when so many seconds have passed, or so many documents wait.
COMMIT_SECONDS = 60.0
COMMIT_ROWS = 16_384
# Documents that are encoded to estimate how long all take.
_SAMPLED = 64


@dataclass
class Upserted:
    """What an upsert did, so far while it runs.

    Attributes
    ----------
    new, changed, same : int
        Documents that were not there, that were encoded or written again, and that were there as they are. Each document of the
        call counts once, by what the whole call did to it.
    read : int
        Rows that were read, those that wait for their commit included.
    doubled : int
        Rows whose id came again later in the same call; the last one is kept, and they count nowhere else.
    chunks : int
        Chunks that were encoded.
    tokens : int
        Their tokens, with prompts.
    truncated : int
        Chunks that were longer than the model takes and were cut.
    seconds, encode_seconds, commit_seconds : float
        Wall-clock time of all, of encoding, and of commits.
    version : int
        Version of the collection after the last commit.
    stopped : bool
        Whether `stop` ended it before the last row.
    """

    new: int = 0
    changed: int = 0
    same: int = 0
    read: int = 0
    doubled: int = 0
    chunks: int = 0
    tokens: int = 0
    truncated: int = 0
    seconds: float = 0.0
    encode_seconds: float = 0.0
    commit_seconds: float = 0.0
    version: int = 0
    stopped: bool = False


@dataclass
class _Waiting:
    """Documents that are encoded and not yet committed."""

    ids: list[str] = field(default_factory=list)
    tables: list[pa.Table] = field(default_factory=list)
    since: float = field(default_factory=perf_counter)
    new: int = 0
    changed: int = 0


class _Seen:
    """The documents of a call so far, each of which counts once, however often its id comes."""

    def __init__(self) -> None:
        self._written: dict[str, bool] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._written

    def counted(self, name: str, *, is_new: bool, is_same: bool) -> tuple[int, int, int]:
        """Return by how much a document changes the numbers of new, changed and same ones.

        Parameters
        ----------
        name : str
        is_new, is_same : bool
            How it compares with what the table has of it; that may be what an earlier row of the call wrote.
        """
        before = self._written.get(name)
        self._written[name] = bool(before) or not is_same
        if before is None:
            return int(is_new), int(not is_new and not is_same), int(is_same)
        # Not written by the earlier row, which was the same, but by this one.
        became_changed = not before and not is_same
        return 0, int(became_changed), -int(became_changed)


class Writer:
    """Writes one upsert.

    Parameters
    ----------
    table : Table
    manifest : Manifest
    encoder : BaseEncoder
        The document encoder.
    report : callable
        Called with the `Upserted` so far after every step.
    stop : callable
        Asked after every step; true ends the upsert with a commit.
    """

    def __init__(
        self,
        table: Table,
        manifest: Manifest,
        encoder: BaseEncoder,
        *,
        report: Callable[[Upserted], None] = lambda so_far: None,
        stop: Callable[[], bool] = lambda: False,
        commit_seconds: float = COMMIT_SECONDS,
    ) -> None:
        self.table = table
        self.manifest = manifest
        self.encoder = encoder
        self.types = FieldTypes(table.fields)
        self.maker = RowMaker(manifest, encoder, self.types)
        self.chunker = self.maker.chunker
        self.done = Upserted(version=table.version)
        self._report = report
        self._stop = stop
        self._commit_seconds = commit_seconds
        self._waiting = _Waiting()

    def preview(self, rows: Any) -> tuple[Upserted, list[Document]]:
        """Count what `write` would do, without encoding or writing.

        Returns
        -------
        counts : Upserted
        some : list of Document
            Documents that would be encoded, up to 64 from everywhere: to estimate how long it would take.
        """
        chunking = self.chunker.name
        seen = _Seen()
        some: list[Document] = []
        encoded = 0
        sampling = random.Random(0)
        for piece in pieces(documents(rows, self.types), lambda: _PIECE):
            self.done.read += len(piece)
            kept = self._without_doubles(piece, seen, "last")
            stored = Stored(self.table, list(kept))
            for document in kept.values():
                known = stored.row_hash(document.id)
                is_same = known == document.row_hash(chunking)
                new, changed, same = seen.counted(document.id, is_new=known is None, is_same=is_same)
                self.done.new += new
                self.done.changed += changed
                self.done.same += same
                if stored.content_hash(document.id) == document.content_hash(chunking):
                    continue
                encoded += 1
                if len(some) < _SAMPLED:
                    some.append(document)
                elif (place := sampling.randrange(encoded)) < _SAMPLED:
                    some[place] = document
            self._report(self.done)
        self.done.chunks = encoded
        return self.done, some

    def write(self, rows: Any, *, on_duplicate: Literal["last", "error"] = "last") -> Upserted:
        """Write rows; see `Collection.upsert`."""
        begun = perf_counter()
        seen = _Seen()
        try:
            # What an error or Ctrl-C leaves encoded is committed: the next call does not encode it again.
            try:
                for piece in pieces(documents(rows, self.types), self._piece_size):
                    self._add(self._without_doubles(piece, seen, on_duplicate), seen)
                    self.done.read += len(piece)
                    self.done.seconds = perf_counter() - begun
                    self._report(self.done)
                    if self._stop():
                        self.done.stopped = True
                        break
            finally:
                self._commit()
        finally:
            self.done.seconds = perf_counter() - begun
        if self.done.doubled:
            log.warning(
                "%d rows have an id that comes again; the last one of each was kept", self.done.doubled
            )
        return self.done

    def _piece_size(self) -> int:
        """Return how many documents take some seconds, by those so far."""
        done = self.done
        wanted = int(_PIECE_SECONDS * done.read / done.encode_seconds) if done.encode_seconds else 0
        return min(_PIECE, max(_SMALLEST_PIECE, wanted))

    def _without_doubles(self, piece: list[Document], seen: _Seen, on_duplicate: str) -> dict[str, Document]:
        kept: dict[str, Document] = {}
        for document in piece:
            if document.id in kept or document.id in seen:
                if on_duplicate == "error":
                    self._add(kept, seen)
                    raise CareError(
                        f"id {document.id!r} comes twice; give every document an id of its own, or on_duplicate='last'"
                    )
                self.done.doubled += 1
            kept.pop(document.id, None)
            kept[document.id] = document
        return kept

    def _add(self, piece: dict[str, Document], seen: _Seen) -> None:
        """Encode what is new or changed of some documents, and commit when it is time."""
        if not piece:
            return
        if self._waiting.ids and not piece.keys().isdisjoint(self._waiting.ids):
            self._commit()  # a row that comes again is compared with what was written
        stored = Stored(self.table.latest(), list(piece))
        made = self.maker.make(stored, list(piece.values()))
        self._waiting.tables += made.tables
        self._waiting.ids += made.ids
        unchanged = {document.id for document in made.same}
        for name in piece:
            is_new = stored.row_hash(name) is None
            new, changed, same = seen.counted(name, is_new=is_new, is_same=name in unchanged)
            self._waiting.new += new
            self._waiting.changed += changed
            self.done.same += same
        for name, value in vars(made.cost).items():
            setattr(self.done, name, getattr(self.done, name) + value)
        if (
            perf_counter() - self._waiting.since >= self._commit_seconds
            or len(self._waiting.ids) >= COMMIT_ROWS
        ):
            self._commit()

    def _commit(self) -> None:
        waiting, self._waiting = self._waiting, _Waiting()
        if not waiting.ids:
            return
        begun = perf_counter()
        table = self.table.add_fields(self.types.known)
        rows = pa.concat_tables(
            [with_fields(part, table.fields) for part in waiting.tables], promote_options="none"
        )
        # Another writer may have made more chunks of the same documents meanwhile.
        replaced = waiting.ids if self.manifest.chunk_tokens else []
        self.table = table.merge(rows, replaced)
        self.done.version = self.table.version
        self.done.new += waiting.new
        self.done.changed += waiting.changed
        self.done.commit_seconds += perf_counter() - begun
        self._report(self.done)


def pieces(found: Iterable[Document], size: Callable[[], int]) -> Iterator[list[Document]]:
    """Yield documents in pieces; those before an error come first."""
    source = iter(found)
    while True:
        piece: list[Document] = []
        try:
            for document in islice(source, size()):
                piece.append(document)  # noqa: PERF402  # what came before an error is kept
        except BaseException:
            if piece:
                yield piece
            raise
        if not piece:
            return
        yield piece
