"""An approximate index on disk: the exact index with all vectors, the structure as faiss writes it, and how it was chosen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from care_accel.errors import CareError
from care_accel.files import check_format, read_json, write_json
from care_accel.folders import replaced_folder
from care_accel.index import store
from care_accel.index.approximate.building import data_hash
from care_accel.index.approximate.choice import Choice
from care_accel.index.approximate.family import Structure
from care_accel.index.approximate.finder import Finder
from care_accel.index.approximate.library import faiss_library
from care_accel.index.part_files import check_file, open_array, write_array
from care_accel.index.parts import Part
from care_accel.index.saved_file import SavedFile, checksum, create
from care_accel.index.store import Stored

MANIFEST = "approximate.json"
VECTORS, STRUCTURE, IDS = "vectors", "structure.faiss", "ids.npy"
FORMAT = 1
_AGAIN = "build the index again: its vectors are those of ExactIndex.load"


def save(
    folder: Path, index: Stored, built: int, choice: Choice, finder: Finder | None, moved_to: Path
) -> tuple[Part, ...]:
    """Write an index whose first ``built`` vectors are in the structure; return its parts with their files. See `store.save`."""
    with replaced_folder(folder, MANIFEST, (VECTORS, STRUCTURE, IDS)) as new:
        saved = store.save(new / VECTORS, index, moved_to / VECTORS)
        files: dict[str, SavedFile] = {}
        if finder is not None:
            files[STRUCTURE] = write_structure(new / STRUCTURE, finder)
            if finder.ids is not None:
                files[IDS] = write_array(new / IDS, finder.ids)
        manifest = {
            "format": FORMAT,
            "built": built,
            "files": {name: file.listed() for name, file in files.items()},
            "choice": choice.to_json(),
        }
        write_json(new / MANIFEST, manifest, private=True)
    return saved


def load(folder: Path, *, resident: str | None, verify: bool) -> tuple[Stored, int, Choice, Finder | None]:
    """Open what `save` wrote.

    Raises
    ------
    CareError
        It is damaged, its vectors are others, or its structure is of another release of faiss.
    """
    file = folder / MANIFEST
    manifest = read_json(file, "a saved approximate index has one")
    check_format(manifest, file, FORMAT)
    if not isinstance(manifest.get("choice"), dict) or not isinstance(manifest.get("files"), dict):
        raise CareError(f"{file}: 'choice' or 'files' is damaged; build the index again")
    choice = Choice.from_json(manifest["choice"], file)
    index = store.load(folder / VECTORS, resident=resident, verify=verify)
    built = manifest.get("built")
    base: list[Part] = []
    for part in index.parts:
        if sum(one.count for one in base) == built:
            break
        base.append(part)
    if type(built) is not int or sum(one.count for one in base) != built or index.width != choice.width:
        raise CareError(f"{folder / VECTORS}: has other vectors than {file} says; {_AGAIN}")
    if verify and data_hash(base or index.parts) != choice.data:
        raise CareError(
            f"{folder / VECTORS}: has other vectors than the index was built of, by their hash; {_AGAIN}"
        )
    return (
        index,
        built,
        choice,
        None if choice.is_exact else _finder(folder, manifest["files"], choice, built),
    )


def write_structure(file: Path, finder: Finder) -> SavedFile:
    """Write the structure of a finder to a new file."""
    data = faiss_library().serialize_index(finder.structure.on_cpu())
    with os.fdopen(create(file), "wb") as stream:
        stream.write(data.data)
    return SavedFile.of(file, checksum(file))


def read_structure(
    file: Path, files: dict[str, Any], manifest: Path, choice: Choice, again: str = _AGAIN
) -> Structure:
    """Read a structure that a manifest lists.

    Raises
    ------
    CareError
        It is damaged, is not that of the choice, or is of another release of faiss; the message ends with what to do.
    """
    faiss = faiss_library()
    if _release(faiss.__version__) != _release(choice.faiss):
        raise CareError(
            f"{file}: was built by faiss {choice.faiss}, and here is {faiss.__version__}, whose recall was not measured; {again}, "
            f"or install faiss {choice.faiss}"
        )
    # A damaged file could make faiss ask for any memory: it is checked before.
    check_file(file, files, manifest, verify=True)
    try:
        read = faiss.deserialize_index(np.fromfile(file, dtype=np.uint8))
    except (RuntimeError, MemoryError) as cause:
        raise CareError(
            f"{file}: cannot be read by faiss: {str(cause).split(chr(10))[0][:200]}; {again}"
        ) from None
    if read.ntotal != choice.vectors or read.d != choice.width:
        raise CareError(
            f"{file}: has {read.ntotal:,} vectors of width {read.d}, not those of its manifest; {again}"
        )
    return Structure(choice.name, read)


def _finder(folder: Path, files: dict[str, Any], choice: Choice, built: int) -> Finder:
    structure = read_structure(folder / STRUCTURE, files, folder / MANIFEST, choice)
    ids = None
    if IDS in files:
        check_file(folder / IDS, files, folder / MANIFEST, verify=True)
        ids = open_array(folder / IDS, np.int64, [choice.vectors], mapped=False)
    elif choice.vectors != built:
        raise CareError(f"{folder / STRUCTURE}: has {choice.vectors:,} vectors of {built:,}; {_AGAIN}")
    if ids is not None and not (np.all(np.diff(ids) > 0) and ids[0] >= 0 and ids[-1] < built):
        raise CareError(f"{folder / IDS}: has ids that do not exist; {_AGAIN}")
    return Finder(structure, choice.value, choice.candidates, ids)


def _release(version: str) -> list[str]:
    return str(version).split(".")[:2]
