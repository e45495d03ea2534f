"""What finds hits of a collection approximately, on disk beside the snapshots. It is derived: it may be deleted, and nothing is lost."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from care_accel.collection.storage.manifest import Manifest
from care_accel.collection.storage.table import Table
from care_accel.collection.versions.snapshot import Snapshot
from care_accel.errors import CareError
from care_accel.files import check_format, read_json, write_json
from care_accel.folders import replaced_folder
from care_accel.index import ApproximateIndex
from care_accel.index.approximate import Choice, RecallWatch
from care_accel.index.approximate.attached import AttachedIndex
from care_accel.index.approximate.choice import STALE
from care_accel.index.approximate.files import STRUCTURE, read_structure, write_structure
from care_accel.index.approximate.finder import Finder
from care_accel.index.part_files import check_file, open_array, write_array

FOLDER = "approximate"
MANIFEST = "approximate.json"
FORMAT = 1
_ROW_IDS, _UPDATED = "row_ids.npy", "updated.npy"
_AGAIN = "it is chosen again by care-accel collection index"


@dataclass(frozen=True, eq=False)
class StoredStructure:
    """How a collection is searched for a recall: a structure over the rows of one version, or the exact scan.

    A row keeps its vector from one change to the next. So the structure serves every version: of each it finds the rows that have not
    changed since it was built.

    Attributes
    ----------
    choice : Choice
    finder : Finder or None
        None if every search is an exact scan.
    row_ids, updated : numpy.ndarray
        uint64: of each vector of the structure, its row and the version that wrote it last.
    version : int
        That it was built of.
    commit : str or None
        `Table.commit` of the version.
    k : int
        How many documents were asked for, of which the choice's own k follows.
    """

    choice: Choice
    finder: Finder | None
    row_ids: NDArray[np.uint64]
    updated: NDArray[np.uint64]
    version: int
    commit: str | None
    k: int

    @classmethod
    def build(
        cls,
        snapshot: Snapshot,
        recall: float,
        k: int,
        depth: int,
        queries: ArrayLike | None = None,
        **options: Any,
    ) -> StoredStructure:
        """Choose how a version is searched.

        Parameters
        ----------
        snapshot : Snapshot
        recall : float
        k : int
            Documents of a search.
        depth : int
            Vectors that decide them.
        queries, **options
            As in `ApproximateIndex.build`.
        """
        built = ApproximateIndex.build(snapshot.index, recall, depth, queries=queries, **options)
        rows, finder = snapshot.rows, built.finder
        places: NDArray[np.int64] = np.arange(0 if finder is None else built.choice.vectors)
        if finder is not None and finder.ids is not None:
            places = finder.ids
        row_ids, updated = rows.row_ids[places], rows.updated[places]
        return cls(built.choice, finder, row_ids, updated, snapshot.version, snapshot.commit, k)

    def attached(self, snapshot: Snapshot, watch: RecallWatch | None) -> AttachedIndex | None:
        """Return what searches a version; None for the exact scan."""
        if self.finder is None:
            return None
        positions = snapshot.positions(self.row_ids)
        known = np.flatnonzero(positions >= 0)
        changed = snapshot.rows.updated[positions[known]] != self.updated[known]
        positions[known[changed]] = -1
        return AttachedIndex(snapshot.index, self.finder, positions, self.choice, watch)

    def outgrown(self, vectors: int) -> bool:
        """Return whether so many vectors are so many more or fewer that another choice may be better."""
        return abs(vectors - self.choice.vectors) > STALE * max(self.choice.vectors, 1)

    def save(self, folder: Path, manifest: Manifest) -> None:
        """Write all into a folder, which is replaced."""
        with replaced_folder(folder, MANIFEST, (STRUCTURE, _ROW_IDS, _UPDATED)) as new:
            files = {}
            if self.finder is not None:
                files[STRUCTURE] = write_structure(new / STRUCTURE, self.finder)
                files[_ROW_IDS] = write_array(new / _ROW_IDS, self.row_ids)
                files[_UPDATED] = write_array(new / _UPDATED, self.updated)
            values = {
                "format": FORMAT,
                "uuid": manifest.uuid,
                "version": self.version,
                "commit": self.commit,
                "k": self.k,
                "files": {name: file.listed() for name, file in files.items()},
                "choice": self.choice.to_json(),
            }
            write_json(new / MANIFEST, values, private=True)

    @classmethod
    def load(cls, folder: Path, manifest: Manifest, table: Table) -> StoredStructure:
        """Open what `save` wrote.

        Raises
        ------
        CareError
            It is damaged, or of another collection or another history of this one, or its structure is of another release of faiss.
        """
        file = folder / MANIFEST
        values = read_json(file, "a stored structure has one")
        check_format(values, file, FORMAT)
        version, commit, files = values.get("version"), values.get("commit"), values.get("files")
        k = values.get("k")
        if (
            type(version) is not int
            or type(k) is not int
            or not isinstance(files, dict)
            or not isinstance(values.get("choice"), dict)
        ):
            raise CareError(f"{file}: is damaged; {_AGAIN}")
        if values.get("uuid") != manifest.uuid:
            raise CareError(f"{folder}: is of another collection; {_AGAIN}")
        if commit is not None and table.commit(version) not in (None, commit):
            raise CareError(f"{folder}: version {version} of the table is another one now; {_AGAIN}")
        choice = Choice.from_json(values["choice"], file)
        if choice.is_exact:
            none = np.zeros(0, dtype=np.uint64)
            return cls(choice, None, none, none, version, commit, k)
        if choice.width != manifest.width:
            raise CareError(f"{folder}: has vectors of width {choice.width}, not {manifest.width}; {_AGAIN}")
        row_ids, updated = (
            _array(folder / name, choice.vectors, files, file) for name in (_ROW_IDS, _UPDATED)
        )
        structure = read_structure(folder / STRUCTURE, files, file, choice, _AGAIN)
        finder = Finder(structure, choice.value, choice.candidates)
        return cls(choice, finder, row_ids, updated, version, commit, k)


def _array(file: Path, count: int, files: dict[str, Any], manifest: Path) -> NDArray[np.uint64]:
    check_file(file, files, manifest, verify=True)
    return open_array(file, np.uint64, [count], mapped=False)


def identity(folder: Path) -> tuple[int, int] | None:
    """Return what tells whether a stored structure is another one now; None if there is none."""
    try:
        found = (folder / MANIFEST).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def remove(folder: Path) -> None:
    """Remove a stored structure, if there is one."""
    shutil.rmtree(folder, ignore_errors=True)
