"""Encoding of one part: its rows are read, compared, encoded and written, and a record says that it is done."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa

from care_accel.cluster.plan import Part, Reading
from care_accel.cluster.run_folder import RunFolder, seen_table
from care_accel.cluster.steady import SteadyEncoder, UselessVector
from care_accel.collection.making import Cost, RowMaker, Stored, with_fields
from care_accel.collection.sources.ranges import open_piece
from care_accel.collection.sources.read import DocumentReader
from care_accel.collection.sources.streams import known_encoding
from care_accel.collection.storage import fragments
from care_accel.collection.storage.field_types import KINDS
from care_accel.collection.storage.manifest import model_of, read
from care_accel.collection.storage.rows import Document, FieldTypes, documents
from care_accel.collection.storage.table import Table
from care_accel.encoding.base import BaseDualEncoder
from care_accel.errors import CareError

# Documents that are compared and encoded together: batches of similar length, and memory for their texts.
_AT_ONCE = 16_384
# Encoded by every worker, to compare runtimes; of several lengths.
_FIXED = ("高血压", "糖尿病患者要控制主食，监测血糖，适量运动。", "感冒发热怎么办？" * 12)


class SourceError(CareError):
    """A row or a file cannot be read: the same on every worker."""


class SetAside(CareError):
    """A part cannot be encoded, whoever tries."""


@dataclass(frozen=True)
class Job:
    """What every worker of a run knows.

    Attributes
    ----------
    uri : str
        The collection.
    base : int
        Version that documents are compared with.
    reading : Reading
    mixed_runtimes : bool
        Allow runtimes whose vectors differ by more than 1e-5.
    storage_options : dict of str to str or None
        Of the object store; not shown, as there may be secrets in them.
    batch_tokens : int or None
        Most tokens of a batch.
    """

    uri: str
    base: int
    reading: Reading
    mixed_runtimes: bool = False
    storage_options: dict[str, str] | None = field(default=None, repr=False)
    batch_tokens: int | None = None


class PartEncoder:
    """Encodes parts; the network is loaded once, and its files are checked by hash.

    Parameters
    ----------
    job : Job
    model : BaseDualEncoder
    run : RunFolder
    threads : int, optional
        Threads of the native runtime; by default all.

    Raises
    ------
    CareError
        The model is another one than the collection's, cannot be loaded, or its vectors differ from those of the run.
    """

    def __init__(self, job: Job, model: BaseDualEncoder, run: RunFolder, threads: int | None = None) -> None:
        self._job, self._run = job, run
        self._table = Table.open(job.uri, job.base, job.storage_options)
        self._manifest = read(self._table.metadata, job.uri)
        encoder = model_of(self._manifest, model, job.uri).encoder("document")
        runtime: Any = getattr(encoder, "runtime", None)
        if threads is not None and hasattr(runtime, "threads"):
            runtime.threads = threads
        self._encoder = SteadyEncoder(encoder, job.batch_tokens)
        self.runtime = "/".join(model.choice("document").identity)
        run.check_runtime(self.runtime, np.asarray(encoder.encode(_FIXED)), mixed=job.mixed_runtimes)

    def encode(self, part: Part) -> dict[str, Any]:
        """Encode a part and commit it; one that is done already is not encoded.

        Returns
        -------
        dict
            The record of the part, of whoever was first.

        Raises
        ------
        SourceError
            A row or a file cannot be read.
        SetAside
            The vector of a document is zero or not finite.
        CareError
            It cannot be written.
        """
        if (done := self._run.record(part.number)) is not None:
            return done
        begun = perf_counter()
        types = FieldTypes(self._table.fields)
        maker = RowMaker(self._manifest, self._encoder, types)
        skipped = io.StringIO()
        found, counts = self._read(part, types, skipped)
        if unknown := sorted(set(types.known) - set(self._table.fields)):
            raise SourceError(
                f"{part.describe()}: no row before it has the field {unknown[0]!r}, so that its type is not known; name it with "
                f"its type, as --fields {unknown[0]}:str, and --new-plan"
            )
        tables: list[pa.Table] = []
        written: list[str] = []
        same: list[tuple[str, bytes]] = []
        cost = Cost()
        halved = self._encoder.halved
        rows = iter(found.values())
        while some := list(islice(rows, _AT_ONCE)):
            try:
                made = maker.make(Stored(self._table, [d.id for d in some]), some)
            except UselessVector as useless:
                raise SetAside(f"{part.describe()}: {_whose(useless, some)}") from None
            tables += made.tables
            written += made.ids
            same += [(d.id, d.row_hash(maker.chunker.name)) for d in made.same]
            counts["new"] += made.new
            counts["changed"] += made.changed
            for name, value in vars(made.cost).items():
                setattr(cost, name, getattr(cost, name) + value)
        written_fragments = []
        if tables:
            rows_made = pa.concat_tables([with_fields(one, self._table.fields) for one in tables])
            written_fragments = fragments.write(self._table, rows_made)
        record = {
            **counts,
            **vars(cost),
            "same": len(same),
            "halved": self._encoder.halved - halved,
            "seconds": perf_counter() - begun,
            "fragments": written_fragments,
            "files": fragments.names_of(written_fragments),
            "skipped": [json.loads(line) for line in skipped.getvalue().splitlines()],
        }
        claim = self._run.claim(part.number, record, seen_table(written, same))
        if not claim.won:  # a twin was first
            fragments.discard(self._table, record["files"])
        return claim.values

    def _read(
        self, part: Part, types: FieldTypes, skipped: io.StringIO
    ) -> tuple[dict[str, Document], dict[str, int]]:
        """Return the documents of a part, of each id the last."""
        reading = self._job.reading
        found: dict[str, Document] = {}
        counts = {"read": 0, "doubled": 0, "new": 0, "changed": 0}
        try:
            sources = [open_piece(piece) for piece in part.pieces]
            rows = DocumentReader(
                sources,
                reading.selection(),
                known_encoding(reading.encoding),
                skipped if reading.skip_bad else None,
            )
            for document in documents(rows, types):
                counts["read"] += 1
                counts["doubled"] += found.pop(document.id, None) is not None
                found[document.id] = document
        except CareError as cause:
            raise SourceError(str(cause)) from None
        return found, counts


def _whose(useless: UselessVector, some: list[Document]) -> str:
    """Return which document a useless vector is of."""
    for document in some:
        if (
            useless.text.endswith(document.text)
            or document.text in useless.text
            or useless.text in document.text
        ):
            return f"the vector of document {document.id!r} is zero or not finite"
    return "the vector of a document is zero or not finite"


def first_types(reading: Reading, parts: Iterator[Part], table: Table, most: int = 10_000) -> FieldTypes:
    """Return the types of the fields, by the first rows that have them.

    Parameters
    ----------
    reading : Reading
    parts : iterator of Part
        In the order of the plan.
    table : Table
    most : int
        Rows that are read.

    Raises
    ------
    SourceError
        A row cannot be read.
    """
    types = FieldTypes(table.fields)
    if reading.fields is None:
        return types
    wanted = {name.partition(":")[0] for name in reading.fields if name != "*"}
    every = "*" in reading.fields
    left = most
    try:
        for part in parts:
            sources = [open_piece(piece) for piece in part.pieces]
            skipped = io.StringIO() if reading.skip_bad else None
            rows = DocumentReader(sources, reading.selection(), known_encoding(reading.encoding), skipped)
            for _ in documents(rows, types):
                left -= 1
                if left <= 0 or (not every and wanted <= set(types.known)):
                    return types
    except CareError as cause:
        raise SourceError(str(cause)) from None
    for name, kind in reading.selection().fields.items():
        if kind is not None and name not in types.known:
            types.known[name] = KINDS["text" if kind == "str" else kind]
    return types
