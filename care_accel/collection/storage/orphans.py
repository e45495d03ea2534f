"""Fragment files that no version of a table has: left behind by writers that were killed."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from care_accel.collection.storage.driver_lock import driver_lock
from care_accel.collection.storage.lance_errors import lance_errors
from care_accel.collection.storage.layout import RECORDS, RUN, table_uri
from care_accel.collection.storage.objects import Objects, objects_of
from care_accel.collection.storage.table import Table


@dataclass
class Orphans:
    """What was found.

    Attributes
    ----------
    removed, bytes : int
        Files that were removed, and their size.
    young : int
        Files that may be those of a writer that commits next, and stay.
    """

    removed: int = 0
    bytes: int = 0
    young: int = 0


def remove_orphans(table: Table, *, older_than: float) -> Orphans:
    """Remove fragment files that neither a version of the table nor a record of an unfinished run has.

    Parameters
    ----------
    table : Table
    older_than : float
        Seconds since a file was last written: younger ones may be of a writer that commits next.

    Raises
    ------
    CareError
        A run is under way.
    """
    where, options = table_uri(table.uri), table.storage_options
    with driver_lock(table.uri, options):
        needed = _waiting(objects_of(f"{where.rpartition('/')[0]}/{RUN}/{RECORDS}", options))
        data = objects_of(f"{where}/data", options)
        files = data.entries()
        # Versions are read after the list of files: what is committed meanwhile is in one of them.
        with lance_errors(table.uri):
            newest = table.latest().dataset
            for entry in newest.versions():
                version = newest.checkout_version(entry["version"])
                needed |= {
                    file.path for fragment in version.get_fragments() for file in fragment.data_files()
                }
        found = Orphans()
        now = time.time()
        for file in files:
            if file.name in needed or not file.name.endswith(".lance"):
                continue
            if now - file.modified < older_than:
                found.young += 1
                continue
            data.remove(file.name)
            found.removed += 1
            found.bytes += file.bytes
    return found


def _waiting(records: Objects) -> set[str]:
    """Return the files of records that wait for their commit."""
    found: set[str] = set()
    for entry in records.entries():
        if entry.name.endswith(".json") and (record := records.read(entry.name)) is not None:
            found |= set(json.loads(record)["files"])
    return found
