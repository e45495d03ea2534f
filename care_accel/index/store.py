"""An index on disk: a folder with vectors, codes, and a manifest that lists the files."""

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
from care_accel.index.codes import Codes, Int4Codes

MANIFEST = "index.json"
VECTORS, CODES, NORMS, MEAN = "vectors.npy", "codes.npy", "norms.npy", "mean.npy"
FILES = (VECTORS, CODES, NORMS, MEAN)
INT4_CODES, RESIDUAL_CODES, INT4_NORMS = "int4_codes.npy", "residual_codes.npy", "int4_norms.npy"
# Only a large index has them.
INT4_FILES = (INT4_CODES, RESIDUAL_CODES, INT4_NORMS)
# Their names in care_accel 0.1.0.
OLD_NAMES = {INT4_CODES: "halves.npy", RESIDUAL_CODES: "quarters.npy", INT4_NORMS: "half_norms.npy"}
FORMAT = 2
ORDERS = ("normalize-then-slice", "slice-then-normalize")
_PIECE = 2**22


@dataclass(frozen=True)
class Stored:
    """The contents of a saved index."""

    vectors: NDArray[np.float32]
    codes: Codes
    order: str
    encoder_revision: str | None


def save(folder: Path, index: Stored) -> None:
    """Write an index; see `ExactIndex.save`."""
    codes = index.codes
    arrays: dict[str, NDArray[Any]] = {
        VECTORS: index.vectors,
        CODES: codes.bytes[: codes.blocks],
        NORMS: codes.norms[:, : codes.blocks * _native.BLOCK],
        MEAN: codes.mean,
    }
    if codes.int4:
        arrays |= {
            INT4_CODES: codes.int4.bytes[: codes.blocks],
            RESIDUAL_CODES: codes.int4.residuals[: codes.blocks * _native.BLOCK],
            INT4_NORMS: codes.int4.norms[:, : codes.blocks * _native.BLOCK],
        }
    with replaced_folder(folder, MANIFEST, (*FILES, *INT4_FILES, *OLD_NAMES.values())) as built:
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
    """Open a saved index; see `ExactIndex.load`. Mapped arrays are read-only."""
    file = folder / MANIFEST
    manifest = read_json(file, "a saved index has one")
    check_format(manifest, file, FORMAT)
    count, width = (_number(manifest, name, file) for name in ("count", "width"))
    exponent = _number(manifest, "exponent", file, minimum=-150, maximum=128)
    if not 1 <= width <= _native.MAX_WIDTH:
        raise CareError(f"{file}: width {width} is not supported; save the index again")
    if manifest.get("order") not in ORDERS:
        raise CareError(f"{file}: order {manifest.get('order')!r} is unknown; save the index again")
    blocks = -(-count // _native.BLOCK)
    padded = blocks * _native.BLOCK
    shapes: dict[str, tuple[Any, list[int]]] = {
        VECTORS: (np.float32, [count, width]),
        CODES: (np.uint8, [blocks, _native.block_bytes(width)]),
        NORMS: (np.float32, [2 + _native.error_norm_count(width), padded]),
        MEAN: (np.float32, [width]),
    }
    files = manifest.get("files")
    listed = files if isinstance(files, dict) else {}
    has_int4 = any(name in listed or OLD_NAMES[name] in listed for name in INT4_FILES)
    if has_int4:
        shapes |= {
            INT4_CODES: (np.uint8, [blocks, _native.int4_block_bytes(width)]),
            RESIDUAL_CODES: (np.uint8, [padded, _native.residual_bytes(width)]),
            INT4_NORMS: (np.float32, [3, padded]),
        }
    arrays = {}
    for name, (dtype, shape) in shapes.items():
        stored = OLD_NAMES[name] if OLD_NAMES.get(name) in listed else name
        _check_file(folder / stored, listed, verify=verify)
        mapped = count > 0 and resident != "all" and not (resident == "codes" and name != VECTORS)
        arrays[name] = _open(folder / stored, dtype, shape, mapped=mapped)
    int4 = None
    if has_int4:
        int4 = Int4Codes.from_arrays(
            count, width, arrays[INT4_CODES], arrays[RESIDUAL_CODES], arrays[INT4_NORMS]
        )
    codes = Codes.from_arrays(count, arrays[CODES], arrays[NORMS], arrays[MEAN], exponent, int4)
    return Stored(arrays[VECTORS], codes, manifest["order"], manifest.get("encoder_revision"))


def _number(manifest: dict[str, Any], name: str, file: Path, minimum: int = 0, maximum: int = 2**48) -> int:
    value = manifest.get(name)
    if type(value) is not int or not minimum <= value <= maximum:
        raise CareError(f"{file}: {name!r} is {value!r}; save the index again")
    return value


def _check_file(file: Path, listed: dict[str, Any], *, verify: bool) -> None:
    expected = listed.get(file.name)
    if not isinstance(expected, dict):
        raise CareError(f"{file.with_name(MANIFEST)}: does not list {file.name}; save the index again")
    if not file.is_file():
        raise CareError(f"{file}: is missing; save the index again")
    size = file.stat().st_size
    if size != expected.get("bytes"):
        raise CareError(
            f"{file}: has {size} bytes, but its manifest says {expected.get('bytes')}; save the index again"
        )
    if verify and _checksum(file) != expected.get("crc32"):
        raise CareError(f"{file}: its checksum does not match its manifest; save the index again")


def _open(file: Path, dtype: Any, shape: list[int], *, mapped: bool) -> NDArray[Any]:
    try:
        array = np.load(file, mmap_mode="r" if mapped else None, allow_pickle=False)
    except Exception as cause:  # for a damaged header NumPy raises whatever its parsers raise
        raise CareError(f"{file}: cannot be read: {' '.join(str(cause).split())}") from None
    if array.dtype != dtype or list(array.shape) != shape:
        raise CareError(
            f"{file}: contains {array.dtype} {list(array.shape)}, but its manifest says {np.dtype(dtype)} {shape}; "
            "save the index again"
        )
    if not array.flags.c_contiguous:
        raise CareError(f"{file}: is in column-major order; save the index again")
    return array


def _checksum(file: Path) -> int:
    value = 0
    with file.open("rb") as stream:
        while piece := stream.read(_PIECE):
            value = zlib.crc32(piece, value)
    return value


def _create(file: Path) -> int:
    return os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
