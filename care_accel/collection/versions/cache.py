"""Snapshots on disk: what a search needs, derived from the table. It may be deleted; nothing is lost."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from care_accel.collection.storage.layout import is_remote
from care_accel.collection.storage.manifest import Manifest
from care_accel.collection.storage.table import Table
from care_accel.collection.versions.snapshot import Snapshot
from care_accel.collection.versions.stored_rows import StoredRows
from care_accel.errors import CareError, full_disk
from care_accel.files import cache_folder as user_cache_folder
from care_accel.files import read_json, write_json
from care_accel.index import ExactIndex
from care_accel.index.lexical.lexical_index import LexicalIndex

log = logging.getLogger(__name__)

FOLDER = "index"
MANIFEST = "snapshot.json"
FORMAT = 1
_NAME = re.compile(r"version-(\d+)")
_VECTORS, _LEXICAL = "vectors", "lexical"
# Another process may replace a snapshot while this one opens it.
_TRIES = 5
# Folders of a snapshot that is written or removed right now; older ones are left over.
_NEW, _OLD = ".new-", ".old-"
_LEFT_OVER_S = 24 * 3600


def cache_folder(uri: str, index_dir: str | Path | None) -> Path:
    """Return where a collection's snapshots are: beside its table, or for an object store in the user's cache."""
    if index_dir is not None:
        return Path(index_dir).absolute()
    if not is_remote(uri):
        return Path(uri).absolute() / FOLDER
    return user_cache_folder() / "collections" / hashlib.sha256(uri.rstrip("/").encode()).hexdigest()[:32]


def not_saved(folder: Path, what: str, cause: Exception) -> str:
    """Return what a log says of derived files that cannot be written; the collection is searched without them."""
    if why := full_disk(cause):
        return (
            f"{folder}: {why}, so {what} is not saved, and each process that opens the collection makes it again; no document is "
            "lost: free some space, or have it in a folder on another disk (index_dir, --index-dir)"
        )
    return f"{folder}: {what} is not saved, and will be made again: {cause}"


class Cache:
    """The folder of a collection's snapshots: one folder a version, of which the newest is kept.

    Parameters
    ----------
    folder : Path
    manifest : Manifest
        A snapshot of another collection is left alone.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self._manifest = manifest

    def load(self, table: Table, **options: Any) -> Snapshot | None:
        """Return the snapshot that is nearest to a table's version, None if there is none that can be read.

        Parameters
        ----------
        table : Table
        **options
            Of `ExactIndex.load`: device, threads.
        """
        for _ in range(_TRIES):
            found = self._versions()
            if not found:
                return None
            nearest = min(found, key=lambda number: (abs(number - table.version), -number))
            try:
                return self._load(found[nearest], table, **options)
            except CareError as problem:
                if found[nearest].is_dir() and self._versions() == found:
                    log.warning("%s is rebuilt: %s", found[nearest], problem)
                    self._remove(found[nearest])  # or the new one would have no place
                    return None
        return None

    def _load(self, folder: Path, table: Table, **options: Any) -> Snapshot | None:
        manifest = read_json(folder / MANIFEST, "a saved snapshot has one")
        if manifest.get("format") != FORMAT or manifest.get("uuid") != self._manifest.uuid:
            return None
        commit = manifest.get("commit")
        if commit is not None and table.commit(int(manifest["version"])) not in (None, commit):
            raise CareError(f"version {manifest['version']} of the table is another one now")
        index = ExactIndex.load(folder / _VECTORS, verify=False, **options)
        rows = StoredRows.load([folder / str(name) for name in manifest["rows"]])
        if len(index) != len(rows):
            raise CareError(f"{folder}: has {len(index)} vectors and {len(rows)} rows")
        lexical = LexicalIndex.load(folder / _LEXICAL, verify=False) if self._manifest.lexical else None
        return Snapshot(int(manifest["version"]), index, rows, lexical, commit=commit)

    def save(self, snapshot: Snapshot) -> None:
        """Write a snapshot, and remove older ones; a folder that cannot be written is left as it is.

        Files that an older snapshot has already are linked: it costs what has changed.
        """
        target = self.folder / f"version-{snapshot.version}"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder, prefix=_NEW) as temporary:
                built = Path(temporary) / "snapshot"
                built.mkdir(mode=0o700)
                snapshot.index.save(built / _VECTORS, moved_to=target / _VECTORS)
                names = snapshot.rows.save(built, moved_to=target)
                if snapshot.lexical is not None:
                    snapshot.lexical.save(built / _LEXICAL, moved_to=target / _LEXICAL)
                values = {
                    "format": FORMAT,
                    "uuid": self._manifest.uuid,
                    "version": snapshot.version,
                    "commit": snapshot.commit,
                    "rows": names,
                }
                write_json(built / MANIFEST, values, private=True)
                # Another process may have written the same version: its files are as good.
                with contextlib.suppress(OSError):
                    os.rename(built, target)
        except (OSError, CareError) as cause:
            log.warning(not_saved(self.folder, "the index", cause))
            return
        self._remove_older(snapshot.version)
        self._remove_leftovers()

    def replace(self, snapshot: Snapshot) -> None:
        """Write a snapshot in the place of another one of the same version."""
        self._remove_older(snapshot.version + 1)
        self.save(snapshot)

    def _versions(self) -> dict[int, Path]:
        try:
            entries = list(self.folder.iterdir())
        except OSError:
            return {}
        return {int(found[1]): entry for entry in entries if (found := _NAME.fullmatch(entry.name))}

    def _remove_older(self, version: int) -> None:
        """Remove snapshots of versions before one. Programs that have them open keep what they need."""
        for number, folder in self._versions().items():
            if number < version:
                self._remove(folder)

    def _remove(self, folder: Path) -> None:
        # Renamed first, so that nobody opens a half of it.
        doomed = self.folder / f"{_OLD}{uuid.uuid4().hex}"
        with contextlib.suppress(OSError):
            os.rename(folder, doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        """Remove what killed processes left half written or half removed: each may be as large as the index."""
        with contextlib.suppress(OSError):
            for entry in list(self.folder.iterdir()):
                if entry.name.startswith((_NEW, _OLD)) and time.time() - entry.stat().st_mtime > _LEFT_OVER_S:
                    shutil.rmtree(entry, ignore_errors=True)

    def remove(self) -> None:
        """Remove all snapshots."""
        shutil.rmtree(self.folder, ignore_errors=True)
