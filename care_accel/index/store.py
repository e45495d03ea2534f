"""An index on disk: a folder with ``vectors.npy`` and a manifest that says what belongs to it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from care_accel.errors import CareError
from care_accel.files import check_format, read_json, replaced_folder

MANIFEST = "index.json"
VECTORS = "vectors.npy"
FORMAT = 1


def save(folder: Path, vectors: NDArray[np.float32], encoder_revision: str | None) -> None:
    """Write a folder with the vectors; see `ExactIndex.save`."""
    with replaced_folder(folder, MANIFEST, [VECTORS]) as built:
        with os.fdopen(_create(built / VECTORS), "wb") as stream:
            np.save(stream, vectors, allow_pickle=False)
        manifest = {
            "format": FORMAT,
            "count": len(vectors),
            "width": vectors.shape[1],
            "dtype": "float32",
            "encoder_revision": encoder_revision,
            "bytes": (built / VECTORS).stat().st_size,
        }
        with os.fdopen(_create(built / MANIFEST), "w", encoding="utf-8") as stream:
            stream.write(json.dumps(manifest, indent=2) + "\n")


def load(folder: Path) -> tuple[NDArray[np.float32], str | None]:
    """Map a saved index; see `ExactIndex.load`.

    Returns
    -------
    vectors : numpy.ndarray
        float32 ``[count, width]``, read-only.
    encoder_revision : str or None
    """
    manifest = read_json(folder / MANIFEST, "a saved index has one")
    check_format(manifest, folder / MANIFEST, FORMAT)
    file = folder / VECTORS
    size = file.stat().st_size if file.is_file() else None
    if size is None or size != manifest.get("bytes"):
        found = (
            "is missing" if size is None else f"has {size} bytes, its manifest says {manifest.get('bytes')}"
        )
        raise CareError(f"{file}: {found}; save the index anew")
    try:
        vectors = np.load(file, mmap_mode="r" if manifest.get("count") else None, allow_pickle=False)
    except (OSError, ValueError) as cause:
        raise CareError(f"{file}: cannot be read: {cause}") from None
    if vectors.dtype != np.float32 or list(vectors.shape) != [manifest.get("count"), manifest.get("width")]:
        raise CareError(
            f"{file}: holds {vectors.dtype} {list(vectors.shape)}, its manifest says float32 "
            f"[{manifest.get('count')}, {manifest.get('width')}]; save the index anew"
        )
    if not vectors.flags.c_contiguous:
        raise CareError(f"{file}: is in column order; save the index anew")
    return vectors, manifest.get("encoder_revision")


def _create(file: Path) -> int:
    return os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
