"""Fragments of a collection's table: written by one process, committed by another."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from care_accel.collection.storage.lance_errors import lance_errors
from care_accel.collection.storage.layout import table_uri
from care_accel.collection.storage.objects import objects_of
from care_accel.collection.storage.table import Table

if TYPE_CHECKING:
    from lance.fragment import FragmentMetadata

# A fragment as JSON: names of files below the table, and numbers.
Fragment = dict[str, Any]
_MESSAGE = "__lance_commit_message"
_ADDRESS = "_rowaddr"
_OFFSET_BITS = 32


def write(table: Table, rows: pa.Table) -> list[Fragment]:
    """Write rows into files of the table; no version has them before `commit`.

    Raises
    ------
    CareError
        The disk is full, or the folder cannot be written.
    """
    from lance.fragment import write_fragments

    with lance_errors(table.uri):
        dataset = table.handle()
        made = write_fragments(
            rows.select(dataset.schema.names), dataset, mode="append", enable_stable_row_ids=True
        )
        return [json.loads(json.dumps(fragment.to_json())) for fragment in made]


def names_of(fragments: Sequence[Fragment]) -> list[str]:
    """Return the names of the files of fragments."""
    return [file["path"] for fragment in fragments for file in fragment["files"]]


def discard(table: Table, names: Sequence[str]) -> None:
    """Remove files that `write` made and that are not committed."""
    data = objects_of(f"{table_uri(table.uri)}/data", table.storage_options)
    for name in names:
        data.remove(name)


def commit(
    table: Table, fragments: Sequence[Fragment], replaced: Mapping[int, Sequence[int]], message: str
) -> Table:
    """Add fragments and delete rows in one commit.

    Parameters
    ----------
    table : Table
        The version in which the rows to delete were found.
    fragments : sequence of Fragment
    replaced : mapping of int to sequence of int
        Rows to delete: their offsets in each fragment of the table.
    message : str
        Kept with the commit, see `messages`.

    Returns
    -------
    Table
        The version that the commit made.

    Raises
    ------
    WriteConflict
        Another writer changed the same fragments meanwhile.
    """
    import lance

    with lance_errors(table.uri):
        dataset = table.dataset
        updated, removed = [], []
        for number, offsets in replaced.items():
            left = dataset.get_fragment(number).delete_rows(offsets)
            if left is None:
                removed.append(number)
            else:
                updated.append(left)
        operation = lance.LanceOperation.Update(
            removed_fragment_ids=removed,
            updated_fragments=updated,
            new_fragments=[_metadata(fragment) for fragment in fragments],
        )
        made = lance.LanceDataset.commit(
            table.handle(), operation, read_version=table.version, commit_message=message
        )
    return Table(table.uri, made, storage_options=table.storage_options)


def messages(table: Table, after: int) -> dict[int, str | None]:
    """Return the message of each commit after a version; None where it has none or is not known any more."""
    return {number: _message(table, number) for number in range(after + 1, table.version + 1)}


def _message(table: Table, version: int) -> str | None:
    try:
        made = table.dataset.read_transaction(version)
    except (OSError, ValueError, RuntimeError, TypeError):  # as `Table.commit`
        return None
    return ((made.transaction_properties or {}) if made is not None else {}).get(_MESSAGE)


def places(
    table: Table, columns: Sequence[str], least: int = 1
) -> Iterator[tuple[pa.RecordBatch, pa.Array, pa.Array]]:
    """Yield columns of all rows batch by batch, with the fragment and the offset of each row.

    Parameters
    ----------
    table : Table
    columns : sequence of str
    least : int
        Rows of a batch, but for the last ones.
    """
    import pyarrow.compute as pc

    with lance_errors(table.uri):
        scanner = table.dataset.scanner(columns=list(columns), with_row_address=True)
        for batch in _joined(scanner.to_batches(), least):
            address = batch[_ADDRESS]
            yield (
                batch,
                pc.shift_right(address, pa.scalar(_OFFSET_BITS, pa.uint64())),
                pc.bit_wise_and(address, pa.scalar((1 << _OFFSET_BITS) - 1, pa.uint64())),
            )


def _joined(batches: Iterable[pa.RecordBatch], least: int) -> Iterator[pa.RecordBatch]:
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        waiting.append(batch)
        rows += len(batch)
        if rows >= least:
            yield from pa.Table.from_batches(waiting).combine_chunks().to_batches()
            waiting, rows = [], 0
    if waiting:
        yield from pa.Table.from_batches(waiting).combine_chunks().to_batches()


def _metadata(fragment: Fragment) -> FragmentMetadata:
    from lance.fragment import FragmentMetadata

    return FragmentMetadata.from_json(json.dumps(fragment))
