"""A file of a saved index, and links to it."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_PIECE = 2**22
_MODE = 0o600


@dataclass(frozen=True)
class SavedFile:
    """A file that holds an array of a part.

    Attributes
    ----------
    path : Path
        Where it was last seen.
    size, crc32 : int
        As the manifest lists them.
    identity : tuple of int
        Tells whether the file at the path is still this one.
    """

    path: Path
    size: int
    crc32: int
    identity: tuple[int, ...]

    @classmethod
    def of(cls, path: Path, crc32: int) -> Self:
        """Return a file as it is now."""
        status = path.stat()
        return cls(path, status.st_size, crc32, _identity(status))

    def link(self, target: Path) -> bool:
        """Make the file appear at another path too, which takes neither time nor space; return whether it did.

        It does not if the file is gone or replaced, others could read it, or the file system has no such links.
        """
        try:
            os.link(self.path, target, follow_symlinks=False)
        except OSError:
            return False
        status = target.stat(follow_symlinks=False)
        if _identity(status) == self.identity and status.st_mode & 0o777 == _MODE:
            return True
        target.unlink()
        return False

    def listed(self) -> dict[str, int]:
        """Return the entry of a manifest."""
        return {"bytes": self.size, "crc32": self.crc32}


def checksum(file: Path) -> int:
    """Return the CRC-32 of a file."""
    value = 0
    with file.open("rb") as stream:
        while piece := stream.read(_PIECE):
            value = zlib.crc32(piece, value)
    return value


def create(file: Path) -> int:
    """Return a descriptor of a new file that only its owner can read."""
    return os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _MODE)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    # A mapped file keeps its inode, so that no other file has it; the rest tells whether it was written to.
    return (status.st_dev, status.st_ino, status.st_uid, status.st_size, status.st_mtime_ns)
