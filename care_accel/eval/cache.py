"""Vectors that were computed before: an evaluation that is stopped or repeated encodes nothing twice."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from care_accel.encoding import BaseDualEncoder, Role, Task
from care_accel.errors import CareError
from care_accel.version import __version__

_KEYS_AT_A_TIME = 500  # below SQLite's limit of variables in one statement


class EmbeddingCache:
    """Vectors by what made them, in one SQLite file that only its owner can read.

    Parameters
    ----------
    file : str or Path
        Made if it is missing, with mode 0600.
    anew : bool
        Hand out only what was put in by this object, and replace the rest as it comes.

    Raises
    ------
    CareError
        The file cannot be opened or is no such cache.
    """

    def __init__(self, file: str | Path, *, anew: bool = False) -> None:
        self.file = Path(file)
        self._own: set[bytes] | None = set() if anew else None
        self.file.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Made by hand: SQLite would make it readable to everybody whom the umask lets.
            os.close(os.open(self.file, os.O_CREAT | os.O_RDWR, 0o600))
            self._connection = sqlite3.connect(self.file, timeout=60)
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID"
            )
        except OSError as cause:
            raise CareError(f"{self.file}: cannot be written: {cause.strerror}") from None
        except sqlite3.DatabaseError as cause:
            raise CareError(
                f"{self.file}: cannot be used as a cache of vectors ({cause}); remove it"
            ) from None

    def get(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """Return the vectors that are there, float32 ``[width]`` each."""
        if self._own is not None:
            keys = [key for key in keys if key in self._own]
        found = {}
        for start in range(0, len(keys), _KEYS_AT_A_TIME):
            some = keys[start : start + _KEYS_AT_A_TIME]
            marks = ",".join("?" * len(some))
            rows = self._connection.execute(
                f"SELECT key, vector FROM vectors WHERE key IN ({marks})", list(some)
            )
            found.update({key: np.frombuffer(vector, dtype="<f4") for key, vector in rows})
        return found

    def put(self, keys: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
        """Store vectors, ``[len(keys), width]``, all of them or none."""
        rows = [(key, row.astype("<f4").tobytes()) for key, row in zip(keys, vectors, strict=True)]
        with self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)
        if self._own is not None:
            self._own.update(keys)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def vector_keys(model: BaseDualEncoder, role: Role, task: Task, texts: Sequence[str]) -> list[bytes]:
    """Return the cache's key of each text: everything that decides its vector.

    That is the encoder's revision (weights, tokenizer, pooling, order, width, length), role, prompt,
    runtime (a server's address with it) and dtype, the releases of what computes it, and the text.
    """
    spec = model.spec(role)
    releases = [__version__, *map(version, ("transformers", "tokenizers"))]
    runs = model.choice(role).identity
    context = "\0".join((model.revision(role), role, spec.prompt(task), *runs, *releases))
    start = hashlib.sha256(context.encode("utf-8", "surrogatepass"))
    keys = []
    for text in texts:
        one = start.copy()
        one.update(b"\0" + text.encode("utf-8", "surrogatepass"))
        keys.append(one.digest())
    return keys
