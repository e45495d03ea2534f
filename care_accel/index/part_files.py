"""The files of a part of an index: NumPy arrays, which a later save takes over without copying them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from care_accel import _native
from care_accel.errors import CareError
from care_accel.index.codes import Codes, Int4Codes
from care_accel.index.parts import Part
from care_accel.index.saved_file import SavedFile, checksum, create

VECTORS, CODES, NORMS, MEAN = "vectors.npy", "codes.npy", "norms.npy", "mean.npy"
FILES = (VECTORS, CODES, NORMS, MEAN)
INT4_CODES, RESIDUAL_CODES, INT4_NORMS = "int4_codes.npy", "residual_codes.npy", "int4_norms.npy"
VALUE_SCALES = "value_scales.npy"
# Only a large part has them.
INT4_FILES = (INT4_CODES, RESIDUAL_CODES, INT4_NORMS, VALUE_SCALES)
# Their names in care_accel 0.1.0.
OLD_NAMES = {INT4_CODES: "halves.npy", RESIDUAL_CODES: "quarters.npy", INT4_NORMS: "half_norms.npy"}


def write_part(folder: Path, part: Part) -> dict[str, SavedFile]:
    """Write the files of a part to a new folder, those that are on disk already as links to them; return them by name."""
    folder.mkdir(mode=0o700)
    codes = part.codes
    arrays: dict[str, NDArray[Any]] = {
        VECTORS: part.vectors,
        CODES: codes.bytes[: codes.blocks],
        NORMS: codes.norms[:, : codes.blocks * _native.BLOCK],
        MEAN: codes.mean,
    }
    if codes.int4:
        arrays |= {
            INT4_CODES: codes.int4.bytes[: codes.blocks],
            RESIDUAL_CODES: codes.int4.residuals[: codes.blocks * _native.BLOCK],
            INT4_NORMS: codes.int4.norms[:, : codes.blocks * _native.BLOCK],
            VALUE_SCALES: codes.int4.value_scales,
        }
    written = {}
    for name, array in arrays.items():
        known = (part.files or {}).get(name)
        if known is not None and known.link(folder / name):
            written[name] = replace(known, path=folder / name)
        else:
            written[name] = write_array(folder / name, array)
    return written


def write_array(file: Path, array: NDArray[Any]) -> SavedFile:
    """Write a new file that only its owner can read."""
    array = np.ascontiguousarray(array)
    with os.fdopen(create(file), "wb") as stream:
        # As `np.save`, which asks C to write and loses why it could not: of a full disk it says a number of bytes.
        np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(array))
        stream.write(array.data)
    return SavedFile.of(file, checksum(file))


def read_part(
    folder: Path,
    count: int,
    width: int,
    exponent: int,
    listed: Mapping[str, Any],
    manifest: Path,
    *,
    resident: str | None,
    verify: bool,
    has_value_scales: bool = True,
) -> Part:
    """Open the files of a part that a manifest lists.

    Int4 codes of earlier releases have no scales of values: ``has_value_scales`` is false then.

    Raises
    ------
    CareError
        A file is missing or damaged.
    """
    blocks = -(-count // _native.BLOCK)
    padded = blocks * _native.BLOCK
    shapes: dict[str, tuple[Any, list[int]]] = {
        VECTORS: (np.float32, [count, width]),
        CODES: (np.uint8, [blocks, _native.block_bytes(width)]),
        NORMS: (np.float32, [2 + _native.error_norm_count(width), padded]),
        MEAN: (np.float32, [width]),
    }
    has_int4 = any(name in listed or OLD_NAMES.get(name) in listed for name in INT4_FILES)
    if has_int4:
        shapes |= {
            INT4_CODES: (np.uint8, [blocks, _native.int4_block_bytes(width)]),
            RESIDUAL_CODES: (np.uint8, [padded, _native.residual_bytes(width)]),
            INT4_NORMS: (np.float32, [3, padded]),
        }
        if has_value_scales:
            shapes[VALUE_SCALES] = (np.float32, [width])
    arrays, files = {}, {}
    for name, (dtype, shape) in shapes.items():
        stored = OLD_NAMES[name] if OLD_NAMES.get(name) in listed else name
        files[name] = check_file(folder / stored, listed, manifest, verify=verify)
        mapped = count > 0 and resident != "all" and not (resident == "codes" and name != VECTORS)
        arrays[name] = open_array(folder / stored, dtype, shape, mapped=mapped)
    int4 = None
    if has_int4:
        scales = arrays.get(VALUE_SCALES)
        if scales is not None and not ((scales >= _native.MIN_VALUE_SCALE) & (scales <= 1)).all():
            raise CareError(
                f"{folder / VALUE_SCALES}: has scales beyond {_native.MIN_VALUE_SCALE} to 1; save the index again"
            )
        int4 = Int4Codes.from_arrays(
            count, width, arrays[INT4_CODES], arrays[RESIDUAL_CODES], arrays[INT4_NORMS], scales
        )
    codes = Codes.from_arrays(count, arrays[CODES], arrays[NORMS], arrays[MEAN], exponent, int4)
    return Part(arrays[VECTORS], codes, files=files)


def check_file(file: Path, listed: Mapping[str, Any], manifest: Path, *, verify: bool) -> SavedFile:
    """Return a file that a manifest lists.

    Raises
    ------
    CareError
        It is not listed or missing, or is not what the manifest says.
    """
    expected = listed.get(file.name)
    if not isinstance(expected, dict):
        raise CareError(f"{manifest}: does not list {file.name}; save the index again")
    if not file.is_file():
        raise CareError(f"{file}: is missing; save the index again")
    size, crc32 = file.stat().st_size, expected.get("crc32")
    if size != expected.get("bytes"):
        raise CareError(
            f"{file}: has {size} bytes, but its manifest says {expected.get('bytes')}; save the index again"
        )
    if type(crc32) is not int or (verify and checksum(file) != crc32):
        raise CareError(f"{file}: its checksum does not match its manifest; save the index again")
    return SavedFile.of(file, crc32)


def open_array(file: Path, dtype: Any, shape: list[int], *, mapped: bool) -> NDArray[Any]:
    """Open an array, read-only if it is mapped.

    Raises
    ------
    CareError
        It cannot be read, or is another one.
    """
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
