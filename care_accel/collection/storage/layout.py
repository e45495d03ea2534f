"""Where the parts of a collection are, without anything that Lance or Arrow need."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from care_accel.errors import CareError

FOLDER = "documents.lance"
# Of a collection that several machines encode: what is done, until the table has all of it.
RUN, RECORDS, LOCK = "run", "records", "run.lock"
_REMOTE = re.compile(r"[a-z][a-z0-9+]+://")


def located(uri: str | Path) -> str:
    """Return an address as it is used: that of a local file (``file:///srv/articles``) as a path.

    Raises
    ------
    CareError
        The address is empty, or of a file of another machine.
    """
    text = str(uri)
    if not text.strip():
        raise CareError("the place of the collection is empty; give a folder or an address")
    if not text.startswith("file:"):
        return text
    parts = urlsplit(text)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise CareError(f"{text}: must be an absolute path of this machine, as file:///srv/articles")
    return unquote(parts.path)


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


def names_collection(place: str | Path) -> bool:
    """Return whether a place is that of a collection: an address of an object store, which is not looked at, or its folder."""
    return is_remote(str(place)) or is_collection(place)


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
