"""An index on disk: a folder with vectors, their codes, and a manifest that says what belongs to it."""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from care_accel import _native
from care_accel.errors import CareError
from care_accel.files import check_format, read_json, replaced_folder
from care_accel.index.codes import Codes, Halves

MANIFEST = "index.json"
VECTORS, CODES, NORMS, MEAN = "vectors.npy", "codes.npy", "norms.npy", "mean.npy"
FILES = (VECTORS, CODES, NORMS, MEAN)
HALVES, QUARTERS, HALF_NORMS = "halves.npy", "quarters.npy", "half_norms.npy"
# What only a large index has.
HALF_FILES = (HALVES, QUARTERS, HALF_NORMS)
FORMAT = 2
ORDERS = ("normalize-then-slice", "slice-then-normalize")
_PIECE = 2**22


@dataclass(frozen=True)
class Stored:
    """What an index has on disk."""

    vectors: NDArray[np.float32]
    codes: Codes
    order: str
    encoder_revision: str | None


def save(folder: Path, index: Stored) -> None:
    """Write a folder; see `ExactIndex.save`."""
    codes = index.codes
    arrays: dict[str, NDArray[Any]] = {
        VECTORS: index.vectors,
        CODES: codes.bytes[: codes.blocks],
        NORMS: codes.norms[:, : codes.blocks * _native.BLOCK],
        MEAN: codes.mean,
    }
    if codes.halves:
        arrays |= {
            HALVES: codes.halves.bytes[: codes.blocks],
            QUARTERS: codes.halves.quarters[: codes.blocks * _native.BLOCK],
            HALF_NORMS: codes.halves.norms[:, : codes.blocks * _native.BLOCK],
        }
    with replaced_folder(folder, MANIFEST, FILES + HALF_FILES) as built:
        for name, array in arrays.items():
            with os.fdopen(_create(built / name), "wb") as stream:
                np.save(stream, array, allow_pickle=False)
        manifest = {
            "format": FORMAT,
            "count": len(index.vectors),
            "width": index.vectors.shape[1],
            "dtype": "float32",
            "order": index.order,
            "exponent": codes.exponent,
            "encoder_revision": index.encoder_revision,
            "files": {
                name: {"bytes": (built / name).stat().st_size, "crc32": _checksum(built / name)}
                for name in arrays
            },
        }
        with os.fdopen(_create(built / MANIFEST), "w", encoding="utf-8") as stream:
            stream.write(json.dumps(manifest, indent=2) + "\n")


def load(folder: Path, *, resident: str | None = None, verify: bool = True) -> Stored:
    """Open a saved index; see `ExactIndex.load`. What is mapped is read-only."""
    file = folder / MANIFEST
    manifest = read_json(file, "a saved index has one")
    check_format(manifest, file, FORMAT)
    count, width = (_number(manifest, name, file) for name in ("count", "width"))
    exponent = _number(manifest, "exponent", file, least=-150, most=128)
    if not 1 <= width <= _native.MOST_WIDTH:
        raise CareError(f"{file}: width {width} cannot be; save the index anew")
    if manifest.get("order") not in ORDERS:
        raise CareError(f"{file}: order {manifest.get('order')!r} is unknown; save the index anew")
    blocks = -(-count // _native.BLOCK)
    padded = blocks * _native.BLOCK
    shapes: dict[str, tuple[Any, list[int]]] = {
        VECTORS: (np.float32, [count, width]),
        CODES: (np.uint8, [blocks, _native.block_bytes(width)]),
        NORMS: (np.float32, [2 + _native.norms(width), padded]),
        MEAN: (np.float32, [width]),
    }
    files = manifest.get("files")
    halved = isinstance(files, dict) and any(name in files for name in HALF_FILES)
    if halved:
        shapes |= {
            HALVES: (np.uint8, [blocks, _native.half_block_bytes(width)]),
            QUARTERS: (np.uint8, [padded, _native.quarter_bytes(width)]),
            HALF_NORMS: (np.float32, [3, padded]),
        }
    arrays = {}
    for name, (dtype, shape) in shapes.items():
        _check_file(folder / name, files, verify=verify)
        mapped = count > 0 and resident != "all" and not (resident == "codes" and name != VECTORS)
        arrays[name] = _open(folder / name, dtype, shape, mapped=mapped)
    halves = None
    if halved:
        halves = Halves.of(count, width, arrays[HALVES], arrays[QUARTERS], arrays[HALF_NORMS])
    codes = Codes.of(count, arrays[CODES], arrays[NORMS], arrays[MEAN], exponent, halves)
    return Stored(arrays[VECTORS], codes, manifest["order"], manifest.get("encoder_revision"))


def _number(manifest: dict[str, Any], name: str, file: Path, least: int = 0, most: int = 2**48) -> int:
    value = manifest.get(name)
    if type(value) is not int or not least <= value <= most:
        raise CareError(f"{file}: {name!r} is {value!r}; save the index anew")
    return value


def _check_file(file: Path, files: Any, *, verify: bool) -> None:
    expected = files.get(file.name) if isinstance(files, dict) else None
    if not isinstance(expected, dict):
        raise CareError(f"{file.with_name(MANIFEST)}: says nothing of {file.name}; save the index anew")
    if not file.is_file():
        raise CareError(f"{file}: is missing; save the index anew")
    size = file.stat().st_size
    if size != expected.get("bytes"):
        raise CareError(
            f"{file}: has {size} bytes, its manifest says {expected.get('bytes')}; save the index anew"
        )
    if verify and _checksum(file) != expected.get("crc32"):
        raise CareError(f"{file}: its checksum is not that of its manifest; save the index anew")


def _open(file: Path, dtype: Any, shape: list[int], *, mapped: bool) -> NDArray[Any]:
    try:
        array = np.load(file, mmap_mode="r" if mapped else None, allow_pickle=False)
    except Exception as cause:  # a damaged header has NumPy raise whatever its parsers do
        raise CareError(f"{file}: cannot be read: {' '.join(str(cause).split())}") from None
    if array.dtype != dtype or list(array.shape) != shape:
        raise CareError(
            f"{file}: holds {array.dtype} {list(array.shape)}, its manifest says {np.dtype(dtype)} {shape}; "
            "save the index anew"
        )
    if not array.flags.c_contiguous:
        raise CareError(f"{file}: is in column order; save the index anew")
    return array


def _checksum(file: Path) -> int:
    value = 0
    with file.open("rb") as stream:
        while piece := stream.read(_PIECE):
            value = zlib.crc32(piece, value)
    return value


def _create(file: Path) -> int:
    return os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
