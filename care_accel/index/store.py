"""An index on disk: a folder with a manifest, a folder for each part, and the mask of removed vectors.

Format 4 has the files of part i in ``parts/i``. In format 3 int4 codes have no scales of values. Format 2, of earlier releases,
has one part, beside the manifest, and no such scales either.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from care_accel import _native
from care_accel.errors import CareError
from care_accel.files import check_format, read_json
from care_accel.folders import replaced_folder
from care_accel.index import parts as index_parts
from care_accel.index.part_files import (
    FILES,
    INT4_FILES,
    OLD_NAMES,
    check_file,
    open_array,
    read_part,
    write_array,
    write_part,
)
from care_accel.index.parts import Part
from care_accel.index.saved_file import create

MANIFEST = "index.json"
PARTS, REMOVED = "parts", "removed.npy"
FORMAT, FORMAT_WITHOUT_SCALES, OLD_FORMAT = 4, 3, 2
ORDERS = ("normalize-then-slice", "slice-then-normalize")


@dataclass(frozen=True)
class Stored:
    """The contents of a saved index."""

    parts: tuple[Part, ...]
    width: int
    order: str
    encoder_revision: str | None


def save(folder: Path, index: Stored, moved_to: Path) -> tuple[Part, ...]:
    """Write an index; return its parts with the files that hold them. See `ExactIndex.save`.

    Files of parts that are on disk already are linked, not copied. ``moved_to`` is where the caller moves the folder next.
    """
    full = [part for part in index.parts if part.count]
    removed = index_parts.removed(full or index.parts)
    names = (PARTS, REMOVED, *FILES, *INT4_FILES, *OLD_NAMES.values())
    with replaced_folder(folder, MANIFEST, names) as built:
        (built / PARTS).mkdir(mode=0o700)
        written = [write_part(built / PARTS / str(number), part) for number, part in enumerate(full)]
        others = {}
        if removed.any():
            bits = np.packbits(removed, bitorder="little")
            others[REMOVED] = write_array(built / REMOVED, bits).listed()
        manifest = {
            "format": FORMAT,
            "count": len(removed),
            "removed": int(removed.sum()),
            "width": index.width,
            "dtype": "float32",
            "order": index.order,
            "encoder_revision": index.encoder_revision,
            "files": others,
            "parts": [
                {
                    "count": part.count,
                    "exponent": part.codes.exponent,
                    "files": {name: file.listed() for name, file in files.items()},
                }
                for part, files in zip(full, written, strict=True)
            ],
        }
        with os.fdopen(create(built / MANIFEST), "w", encoding="utf-8") as stream:
            stream.write(json.dumps(manifest, indent=2) + "\n")
    place = moved_to.resolve() / PARTS
    return (
        tuple(
            part.saved({name: replace(file, path=place / str(number) / name) for name, file in files.items()})
            for number, (part, files) in enumerate(zip(full, written, strict=True))
        )
        or index.parts
    )


def load(folder: Path, *, resident: str | None = None, verify: bool = True) -> Stored:
    """Open a saved index; see `ExactIndex.load`. Mapped arrays are read-only."""
    if resident not in (None, "codes", "all"):
        raise CareError(f"resident is {resident!r}; it must be 'codes', 'all' or None")
    file = folder / MANIFEST
    manifest = read_json(file, "a saved index has one")
    check_format(manifest, file, OLD_FORMAT, FORMAT_WITHOUT_SCALES, FORMAT)
    count, width = (_number(manifest, name, file) for name in ("count", "width"))
    if not 1 <= width <= _native.MAX_WIDTH:
        raise CareError(f"{file}: width {width} is not supported; save the index again")
    if manifest.get("order") not in ORDERS:
        raise CareError(f"{file}: order {manifest.get('order')!r} is unknown; save the index again")
    described = [manifest] if manifest["format"] == OLD_FORMAT else manifest.get("parts")
    if not isinstance(described, list) or not all(isinstance(one, dict) for one in described):
        raise CareError(f"{file}: 'parts' must be a list of parts; save the index again")
    # Files are linked from where they are, wherever the process goes.
    place = folder.resolve()
    parts = []
    for number, one in enumerate(described):
        parts.append(
            read_part(
                place if one is manifest else place / PARTS / str(number),
                _number(one, "count", file),
                width,
                _number(one, "exponent", file, minimum=-150, maximum=128),
                _files(one),
                file,
                resident=resident,
                verify=verify,
                has_value_scales=manifest["format"] == FORMAT,
            )
        )
    if sum(part.count for part in parts) != count:
        raise CareError(f"{file}: 'count' is {count}, but its parts have other counts; save the index again")
    if _number(manifest, "removed", file) if manifest["format"] != OLD_FORMAT else 0:
        parts = list(_without_removed(parts, manifest, file, verify=verify))
    found = tuple(parts) or (Part.empty(width),)
    return Stored(found, width, manifest["order"], manifest.get("encoder_revision"))


def _without_removed(
    parts: Sequence[Part], manifest: dict[str, Any], file: Path, *, verify: bool
) -> tuple[Part, ...]:
    bits_file, count = file.with_name(REMOVED), int(manifest["count"])
    check_file(bits_file, _files(manifest), file, verify=verify)
    bits = open_array(bits_file, np.uint8, [-(-count // 8)], mapped=False)
    ids = np.flatnonzero(np.unpackbits(bits, count=count, bitorder="little"))
    if len(ids) != manifest["removed"]:
        raise CareError(
            f"{file}: 'removed' is {manifest['removed']}, but {bits_file} has {len(ids)}; save the index again"
        )
    return index_parts.without(parts, ids)


def _files(described: dict[str, Any]) -> dict[str, Any]:
    files = described.get("files")
    return files if isinstance(files, dict) else {}


def _number(manifest: dict[str, Any], name: str, file: Path, minimum: int = 0, maximum: int = 2**48) -> int:
    value = manifest.get(name)
    if type(value) is not int or not minimum <= value <= maximum:
        raise CareError(f"{file}: {name!r} is {value!r}; save the index again")
    return value
