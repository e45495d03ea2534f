"""Where the parts of a collection are, without anything that Lance or Arrow need."""

from __future__ import annotations

import os
import re
from pathlib import Path

FOLDER = "documents.lance"
# Of a collection that several machines encode: what is done, until the table has all of it.
RUN, RECORDS, LOCK = "run", "records", "run.lock"
_REMOTE = re.compile(r"[a-z][a-z0-9+]+://")


def is_remote(uri: str) -> bool:
    """Return whether a collection is in an object store."""
    return bool(_REMOTE.match(uri))


def table_uri(uri: str) -> str:
    """Return where a collection's table is, wherever the process goes.

    A relative path with a colon would be taken for an address of an object store.
    """
    return f"{uri.rstrip('/') if is_remote(uri) else os.path.abspath(uri)}/{FOLDER}"


def is_collection(folder: str | Path) -> bool:
    """Return whether a local folder holds a collection."""
    return (Path(folder) / FOLDER).is_dir()


def folder_bytes(folder: Path) -> int:
    """Return the bytes of the files below a folder."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(root) / name).stat().st_size
            except OSError:  # removed meanwhile
                continue
    return total
