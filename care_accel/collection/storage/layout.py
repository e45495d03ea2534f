"""Where the parts of a collection are, without anything that Lance or Arrow need."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = "documents.lance"
_REMOTE = re.compile(r"[a-z][a-z0-9+]+://")


def is_remote(uri: str) -> bool:
    """Return whether a collection is in an object store."""
    return bool(_REMOTE.match(uri))


def table_uri(uri: str) -> str:
    """Return where a collection's table is."""
    return f"{uri.rstrip('/')}/{FOLDER}"


def is_collection(folder: str | Path) -> bool:
    """Return whether a local folder holds a collection."""
    return (Path(folder) / FOLDER).is_dir()
