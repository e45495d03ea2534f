"""A lexical index on disk: a folder with a manifest, a folder for each part, and the mask of removed documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from care_accel.errors import CareError
from care_accel.files import check_format, read_json, write_json
from care_accel.folders import replaced_folder
from care_accel.index.lexical.postings import Postings
from care_accel.index.part_files import check_file, open_array, write_array

MANIFEST = "lexical.json"
PARTS, REMOVED = "parts", "removed.npy"
GRAMS, OFFSETS, DOCUMENTS, FREQUENCIES, LENGTHS = (
    f"{name}.npy" for name in ("grams", "offsets", "documents", "frequencies", "lengths")
)
FORMAT = 1
# How texts are cut into grams; another way would need the documents again.
ANALYSER = "characters and pairs of characters, NFKC, lower case"
_FREQUENCY_DTYPES = {dtype.__name__: dtype for dtype in (np.uint8, np.uint16, np.uint32)}


@dataclass(frozen=True)
class Stored:
    """The contents of a saved index; ``removed`` is bool, one for each document of all parts."""

    parts: list[Postings]
    removed: NDArray[np.bool_]
    k1: float
    b: float


def save(
    folder: Path,
    parts: Sequence[Postings],
    removed: NDArray[np.bool_],
    *,
    k1: float,
    b: float,
    moved_to: Path,
) -> None:
    """Write an index, and note in its parts where their files are; see `LexicalIndex.save`."""
    with replaced_folder(folder, MANIFEST, (PARTS, REMOVED)) as built:
        (built / PARTS).mkdir(mode=0o700)
        for number, part in enumerate(parts):
            _write_part(built / PARTS / str(number), part)
        others = {}
        if removed.any():
            bits = np.packbits(removed, bitorder="little")
            others[REMOVED] = write_array(built / REMOVED, bits).listed()
        manifest = {
            "format": FORMAT,
            "analyser": ANALYSER,
            "k1": k1,
            "b": b,
            "count": len(removed),
            "removed": int(removed.sum()),
            "files": others,
            "parts": [
                {
                    "count": part.count,
                    "grams": len(part.grams),
                    "postings": part.size,
                    "frequencies": part.frequencies.dtype.name,
                    "files": {name: file.listed() for name, file in part.files.items()},
                }
                for part in parts
            ],
        }
        write_json(built / MANIFEST, manifest, private=True)
    place = moved_to.resolve() / PARTS
    for number, part in enumerate(parts):
        _note(part, place / str(number))


def _write_part(folder: Path, part: Postings) -> None:
    """Write the files of a part to a new folder, those that are on disk already as links to them."""
    folder.mkdir(mode=0o700)
    arrays: dict[str, NDArray[Any]] = {
        GRAMS: part.grams,
        OFFSETS: part.offsets,
        DOCUMENTS: part.documents,
        FREQUENCIES: part.frequencies,
        LENGTHS: part.lengths,
    }
    for name, array in arrays.items():
        known = part.files.get(name)
        if known is None or not known.link(folder / name):
            part.files[name] = write_array(folder / name, array)


def _note(part: Postings, folder: Path) -> None:
    for name, file in part.files.items():
        part.files[name] = replace(file, path=folder / name)


def load(folder: Path, *, verify: bool = True) -> Stored:
    """Open a saved index; see `LexicalIndex.load`. Mapped arrays are read-only."""
    file = folder / MANIFEST
    manifest = read_json(file, "a saved lexical index has one")
    check_format(manifest, file, FORMAT)
    if manifest.get("analyser") != ANALYSER:
        raise CareError(f"{file}: 'analyser' is {manifest.get('analyser')!r}; make the index again")
    # Files are linked from where they are, wherever the process goes.
    place = folder.resolve() / PARTS
    try:
        count, gone = int(manifest["count"]), int(manifest["removed"])
        k1, b = float(manifest["k1"]), float(manifest["b"])
        parts = [
            _read_part(place / str(number), one, file, verify=verify)
            for number, one in enumerate(manifest["parts"])
        ]
        listed = dict(manifest["files"])
    except (KeyError, TypeError, ValueError) as cause:
        raise CareError(f"{file}: is damaged ({cause!r}); make the index again") from None
    if sum(part.count for part in parts) != count:
        raise CareError(f"{file}: 'count' is {count}, but its parts have other counts; make the index again")
    removed = np.zeros(count, dtype=bool)
    if gone:
        check_file(folder / REMOVED, listed, file, verify=verify)
        bits = open_array(folder / REMOVED, np.uint8, [-(-count // 8)], mapped=False)
        removed = np.unpackbits(bits, count=count, bitorder="little").view(bool)
    if int(removed.sum()) != gone:
        raise CareError(
            f"{file}: 'removed' is {gone}, but {REMOVED} has another number; make the index again"
        )
    return Stored(parts, removed, k1, b)


def _read_part(folder: Path, described: dict[str, Any], manifest: Path, *, verify: bool) -> Postings:
    grams, postings = int(described["grams"]), int(described["postings"])
    listed = dict(described["files"])
    shapes: dict[str, tuple[Any, list[int]]] = {
        GRAMS: (np.uint64, [grams]),
        OFFSETS: (np.int64, [grams + 1]),
        DOCUMENTS: (np.int32, [postings]),
        FREQUENCIES: (_FREQUENCY_DTYPES[described["frequencies"]], [postings]),
        LENGTHS: (np.int32, [int(described["count"])]),
    }
    files = {name: check_file(folder / name, listed, manifest, verify=verify) for name in shapes}
    # Plain views: each slice of a numpy.memmap costs more.
    arrays = {
        name: np.asarray(open_array(folder / name, dtype, shape, mapped=shape[0] > 0))
        for name, (dtype, shape) in shapes.items()
    }
    return Postings(
        arrays[GRAMS], arrays[OFFSETS], arrays[DOCUMENTS], arrays[FREQUENCIES], arrays[LENGTHS], files
    )
