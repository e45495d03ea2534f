"""Fragment files that no version of a table has: left behind by writers that were killed."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from care_accel.collection.storage.lance_errors import lance_errors
from care_accel.collection.storage.layout import LOCK, RECORDS, RUN, is_remote
from care_accel.collection.storage.table import Table
from care_accel.errors import CareError


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
        The collection is in an object store, or a run is under way.
    """
    if is_remote(table.uri):
        raise CareError(f"{table.uri}: orphaned files are found in folders only, not in object stores")
    folder = Path(table.uri)
    with driver_lock(folder):
        needed = _waiting(folder / RUN / RECORDS)
        files = [entry for entry in os.scandir(Path(table.dataset.uri) / "data") if entry.is_file()]
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
        for entry in files:
            if entry.name in needed or not entry.name.endswith(".lance"):
                continue
            stat = entry.stat()
            if now - stat.st_mtime < older_than:
                found.young += 1
                continue
            os.unlink(entry.path)
            found.removed += 1
            found.bytes += stat.st_size
    return found


def _waiting(records: Path) -> set[str]:
    """Return the files of records that wait for their commit."""
    if not records.is_dir():
        return set()
    found: set[str] = set()
    for file in records.glob("*.json"):
        found |= set(json.loads(file.read_text(encoding="utf-8"))["files"])
    return found


@contextmanager
def driver_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of the one who commits what several machines encode; it ends with its process.

    Raises
    ------
    CareError
        Another process holds it.
    """
    try:
        number = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as cause:
        raise CareError(f"{folder}: not writable: {cause.strerror}") from None
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(number, 200, 0).decode("utf-8", "replace").strip() or "another process"
            raise CareError(f"{folder}: {holder} is encoding into it; wait until it has ended") from None
        os.ftruncate(number, 0)
        os.pwrite(number, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)
        yield
    finally:
        os.close(number)
