"""The Lance table of a collection: its columns, and every call of Lance that reads or changes it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from care_accel.collection.storage.filters import filter_errors, require_comparable, require_filter
from care_accel.collection.storage.lance_errors import Replaced, WriteConflict, lance_errors, translated
from care_accel.collection.storage.layout import (
    FOLDER,
    folder_bytes,
    is_collection,
    is_remote,
    located,
    table_uri,
)
from care_accel.collection.storage.manifest import KEY
from care_accel.collection.storage.rows import ID, TEXT, TITLE, TYPE_NAMES, among
from care_accel.errors import CareError

if TYPE_CHECKING:
    import lance

# Columns of a chunk. Title, text and fields are in the first chunk of a document only: nothing is there twice.
CHUNK, START, END, CONTENT_HASH, ROW_HASH, VECTOR = (
    "_chunk",
    "_start",
    "_end",
    "_hash",
    "_row_hash",
    "_vector",
)
OWN = (ID, CHUNK, START, END, TITLE, TEXT, CONTENT_HASH, ROW_HASH, VECTOR)
# Kept by Lance: a row keeps its id when it is updated or moved; the version says when it was last changed.
ROW_ID, UPDATED = "_rowid", "_row_last_updated_at_version"
FIRST_CHUNK = f"{CHUNK} = 0"
_RETRIES = 50
_COMPACTIONS = 6
_RETRY_FOR = timedelta(minutes=5)


class Table:
    """A collection's table at one version.

    Parameters
    ----------
    uri : str
        Of the collection, for messages.
    dataset : lance.LanceDataset
    address : str, optional
        Of the table; by default that of the collection now.
    storage_options : dict of str to str, optional
        Of the object store, as `create`.
    """

    def __init__(
        self,
        uri: str,
        dataset: lance.LanceDataset,
        address: str | None = None,
        storage_options: dict[str, str] | None = None,
    ) -> None:
        self.uri = uri
        self.dataset = dataset
        self.storage_options = storage_options
        self.address = address or table_uri(uri)

    @classmethod
    def create(cls, uri: str, empty: pa.Schema, storage_options: dict[str, str] | None = None) -> Table:
        """Create an empty table, in a folder that only its owner can read.

        Parameters
        ----------
        uri : str
            Of the collection.
        empty : pyarrow.Schema
        storage_options : dict of str to str, optional
            Of an object store, as Lance takes them; what is missing is taken from the environment.

        Raises
        ------
        CareError
            Something is there, or the folder cannot be written.
        """
        uri = located(uri)
        if not is_remote(uri):
            folder = Path(uri)
            if folder.is_dir() and (names := sorted(entry.name for entry in folder.iterdir())):
                if FOLDER in names:
                    raise CareError(f"{uri} is a collection already; open it, or choose another folder")
                raise CareError(
                    f"{uri} exists and contains {names[0]}; choose a folder that is empty or missing"
                )
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                folder.chmod(0o700)
            except OSError as cause:
                raise CareError(f"{uri}: the folder cannot be created: {cause.strerror}") from None
        with lance_errors(uri):
            made = _lance().write_dataset(
                empty.empty_table(),
                table_uri(uri),
                mode="create",
                enable_stable_row_ids=True,
                storage_options=storage_options,
            )
        return cls(uri, made, storage_options=storage_options)

    @classmethod
    def open(
        cls, uri: str, version: int | None = None, storage_options: dict[str, str] | None = None
    ) -> Table:
        """Open a table.

        Raises
        ------
        CareError
            There is none, it has no such version, or a newer format.
        """
        uri = located(uri)
        if not is_remote(uri) and not is_collection(uri):
            what = "no such folder" if not Path(uri).exists() else f"is not a collection (it has no {FOLDER})"
            raise CareError(f"{uri}: {what}; create one with Collection.create or care-accel index")
        with lance_errors(uri):
            opened = _lance().dataset(table_uri(uri), storage_options=storage_options)
            if version is not None and version != opened.version:
                known = [entry["version"] for entry in opened.versions()]
                if version not in known:
                    raise CareError(
                        f"{uri}: version {version} does not exist; the versions are {_ranges(known)} (older ones are removed by "
                        "compact)"
                    )
                opened = opened.checkout_version(version)
        return cls(uri, opened, storage_options=storage_options)

    def at(self, version: int) -> Table:
        """Return the table at another version; see `open`."""
        return Table.open(self.uri, version, self.storage_options)

    def latest(self) -> Table:
        """Return the table at its newest version; this object if there is no newer one."""
        with lance_errors(self.uri):
            if self.dataset.latest_version == self.version:
                return self
            newest = Table(self.uri, self.handle(), self.address, self.storage_options)
        if newest.version < self.version:  # as while a folder is being deleted
            raise CareError(
                f"{self.uri}: version {self.version} is gone and {newest.version} the newest: its files were removed; restore "
                "them, or open what is left again"
            )
        return newest

    @property
    def version(self) -> int:
        """Number of the version; every commit makes one."""
        return int(self.dataset.version)

    def commit(self, version: int) -> str | None:
        """Return the unique name of the commit that made a version; None if it is not known any more.

        Nor are the names of all compactions: pylance 14 cannot read those that moved an index (a TypeError).
        """
        try:
            made = self.dataset.read_transaction(version)
        except (OSError, ValueError, RuntimeError, TypeError):
            return None
        return None if made is None else str(made.uuid)

    @property
    def schema(self) -> pa.Schema:
        """Schema, with the manifest in its metadata."""
        return self.dataset.schema

    @property
    def metadata(self) -> dict[bytes, bytes]:
        return self.schema.metadata or {}

    @property
    def fields(self) -> dict[str, pa.DataType]:
        """The user's fields and their types."""
        return {field.name: field.type for field in self.schema if field.name not in OWN}

    def versions(self) -> list[dict[str, Any]]:
        """Return number, time and number of rows of every version, oldest first."""
        return [
            {
                "version": entry["version"],
                "time": entry["timestamp"],
                "rows": int(entry["metadata"].get("total_rows", 0)),
            }
            for entry in self.dataset.versions()
        ]

    def count(self, condition: str | None = None) -> int:
        """Count rows."""
        with lance_errors(self.uri):
            return int(self.dataset.count_rows(filter=condition))

    def read(self, columns: Sequence[str], condition: str | None = None) -> pa.Table:
        """Read columns of the rows under a condition."""
        with lance_errors(self.uri):
            return self.dataset.to_table(columns=list(columns), filter=condition)

    def batches(
        self, columns: Sequence[str], condition: str | None = None, *, batch_size: int = 4096
    ) -> Iterator[pa.RecordBatch]:
        """Read columns batch by batch."""
        with lance_errors(self.uri):
            yield from self.dataset.scanner(
                columns=list(columns), filter=condition, batch_size=batch_size, scan_in_order=True
            ).to_batches()

    def rows_of(self, ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
        """Read columns of all chunks of some documents."""
        if not len(ids):
            return self.read(columns, "false")
        if 20 * len(ids) < self.dataset.count_rows():
            return self.read(columns, among(ids))
        import pyarrow.compute as pc

        # So many that one pass over the ids costs less than a search for each.
        found = self.read([*dict.fromkeys([ID, *columns])])
        return found.filter(pc.is_in(found[ID], pa.array(list(ids), pa.string()))).select(list(columns))

    def filtered(self, expression: str, *, chunked: bool = True) -> NDArray[np.uint64]:
        """Return the row ids of the documents, by their first chunks, that a user's filter leaves.

        Parameters
        ----------
        expression : str
        chunked : bool
            Whether a document may have several chunks.

        Raises
        ------
        CareError
            The filter is no expression over the fields.
        """
        require_filter(expression, self.fields)
        condition = f"({expression}) AND {FIRST_CHUNK}" if chunked else f"({expression})"
        with filter_errors(expression, self.fields):
            plan = self.dataset.scanner(columns=[ROW_ID], filter=f"({expression})").explain_plan()
            require_comparable(expression, plan, self.fields)
            return self._row_ids(condition)

    def _row_ids(self, condition: str) -> NDArray[np.uint64]:
        return self.dataset.to_table(columns=[ROW_ID], filter=condition)[ROW_ID].to_numpy()

    def add_fields(self, wanted: Mapping[str, pa.DataType]) -> Table:
        """Return the table with new fields, null in all rows; another writer may have added them as well."""
        for _ in range(_RETRIES):
            table = self.latest()
            missing = [pa.field(name, kind) for name, kind in wanted.items() if name not in table.fields]
            for name, kind in wanted.items():
                if table.fields.get(name, kind) != kind:
                    raise WriteConflict(
                        f"{self.uri}: field {name!r} has become {TYPE_NAMES.get(table.fields[name], 'another type')} "
                        f"meanwhile, by another writer; here it is {TYPE_NAMES.get(kind, kind)}"
                    )
            if not missing:
                return table
            try:
                table.handle().add_columns(pa.schema(missing))
            except (OSError, ValueError, RuntimeError) as cause:
                if table.latest() is table:  # nobody else wrote: it is not a conflict
                    raise translated(self.uri, cause) from None
        raise WriteConflict(
            f"{self.uri}: other writers changed the table {_RETRIES} times meanwhile; try again"
        )

    def merge(self, rows: pa.Table, replaced: Sequence[str]) -> Table:
        """Insert and update chunks in one commit.

        Parameters
        ----------
        rows : pyarrow.Table
            All chunks of each document.
        replaced : sequence of str
            Documents of which chunks that are not in ``rows`` are deleted.

        Raises
        ------
        CareError
            The disk is full, or others kept changing the same documents.
        """
        with lance_errors(self.uri):
            aligned = rows.select(self.schema.names)
            merge = (
                self.handle()
                .merge_insert([ID, CHUNK])
                .when_matched_update_all()
                .when_not_matched_insert_all()
            )
            if replaced:
                merge = merge.when_not_matched_by_source_delete(among(replaced))
            merge.conflict_retries(_RETRIES).retry_timeout(_RETRY_FOR).execute(aligned)
        return self.latest()

    def delete(self, ids: Sequence[str]) -> Table:
        """Delete documents in one commit; unknown ids are fine."""
        with lance_errors(self.uri):
            self.handle().delete(among(ids), conflict_retries=_RETRIES, retry_timeout=_RETRY_FOR)
        return self.latest()

    def delete_where(self, expression: str) -> Table:
        """Delete the rows that a user's filter leaves, in one commit."""
        with filter_errors(expression, self.fields):
            self.handle().delete(expression, conflict_retries=_RETRIES, retry_timeout=_RETRY_FOR)
        return self.latest()

    def index_ids(self) -> None:
        """Create or bring up to date the index by which documents are found by their ids."""
        with lance_errors(self.uri):
            dataset = self.handle()
            if any(ID in entry.field_names for entry in dataset.describe_indices()):
                dataset.optimize.optimize_indices()
            else:
                dataset.create_scalar_index(ID, "BTREE")

    def compact(self, older_than: timedelta) -> Table:
        """Merge small files, drop deleted rows, and remove versions and leftovers of killed writers that are old.

        Raises
        ------
        WriteConflict
            Others kept writing. Nothing is lost; the call may succeed later.
        """
        for attempt in range(_COMPACTIONS):
            try:
                with lance_errors(self.uri):
                    self.handle().optimize.compact_files()
                    self.index_ids()
                break
            except WriteConflict:  # a commit came first, of rows that are being moved
                if attempt == _COMPACTIONS - 1:
                    raise WriteConflict(
                        f"{self.uri}: others wrote during each of {_COMPACTIONS} tries to compact; try again when they pause"
                    ) from None
                time.sleep(0.1 * 2**attempt)
        with lance_errors(self.uri):
            # Files that no version has may be those of a writer that commits next: Lance keeps them for seven days.
            self.handle().cleanup_old_versions(older_than=older_than, delete_unverified=False)
        return self.latest()

    def bytes_on_disk(self) -> int | None:
        """Return the size of all versions, in bytes; None in an object store."""
        if is_remote(self.uri):
            return None
        return folder_bytes(Path(self.address))

    def handle(self) -> lance.LanceDataset:
        """Return the newest version to write to: Lance moves what it writes through to the version that it makes.

        Raises
        ------
        Replaced
            Another collection is at this address now.
        """
        opened = _lance().dataset(self.address, storage_options=self.storage_options)
        if (opened.schema.metadata or {}).get(KEY) != self.metadata.get(KEY):
            raise Replaced(
                f"{self.uri}: another collection has taken the place of this one; open the collection again"
            )
        return opened


def _ranges(numbers: Sequence[int]) -> str:
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 4 else ", ".join(map(str, numbers))


def _lance() -> Any:
    try:
        import lance
    except ImportError:
        raise CareError(
            "a collection needs the package pylance: pip install 'care-accel[collection]'"
        ) from None
    return lance
