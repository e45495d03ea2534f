"""Embedding cache: an interrupted or repeated evaluation encodes no text twice."""

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
from care_accel.errors import ELSEWHERE, CareError, full_disk, not_written, tells_full_disk
from care_accel.version import __version__

_KEYS_PER_STATEMENT = 500  # below SQLite's limit of variables


class EmbeddingCache:
    """Embeddings by key (see `vector_keys`), in one SQLite file that only its owner can read.

    Parameters
    ----------
    file : str or Path
        Created with mode 0600 if missing.
    refresh : bool
        Ignore, and overwrite, entries that were not written by this object.

    Raises
    ------
    CareError
        The file cannot be opened or is not such a cache.
    """

    def __init__(self, file: str | Path, *, refresh: bool = False) -> None:
        self.file = Path(file)
        self._own: set[bytes] | None = set() if refresh else None
        self.file.parent.mkdir(parents=True, exist_ok=True)
        try:
            # SQLite would create it with the umask's permissions.
            os.close(os.open(self.file, os.O_CREAT | os.O_RDWR, 0o600))
            self._connection = sqlite3.connect(self.file, timeout=60)
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID"
            )
        except OSError as cause:
            raise not_written(self.file, cause) from None
        except sqlite3.DatabaseError as cause:
            if why := full_disk(cause):
                raise CareError(f"{self.file}: {why}; {ELSEWHERE}") from None
            raise CareError(
                f"{self.file}: cannot be used as an embedding cache ({cause}); remove the file"
            ) from None

    def get(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """Return the cached embeddings by key, float32 ``[width]`` each; missing keys are omitted."""
        if self._own is not None:
            keys = [key for key in keys if key in self._own]
        vectors = {}
        for start in range(0, len(keys), _KEYS_PER_STATEMENT):
            batch = keys[start : start + _KEYS_PER_STATEMENT]
            placeholders = ",".join("?" * len(batch))
            rows = self._connection.execute(
                f"SELECT key, vector FROM vectors WHERE key IN ({placeholders})", list(batch)
            )
            vectors.update({key: np.frombuffer(vector, dtype="<f4") for key, vector in rows})
        return vectors

    def put(self, keys: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
        """Store embeddings, ``[len(keys), width]``, in one transaction."""
        rows = [(key, row.astype("<f4").tobytes()) for key, row in zip(keys, vectors, strict=True)]
        with tells_full_disk(self.file, f"what it has is kept; {ELSEWHERE}"), self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)
        if self._own is not None:
            self._own.update(keys)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def vector_keys(model: BaseDualEncoder, role: Role, task: Task, texts: Sequence[str]) -> list[bytes]:
    """Return the cache key of each text: a hash of everything that affects its embedding.

    These are the encoder's revision (weights, tokenizer, pooling, order, width, max_tokens), role, prompt, runtime (for
    a server with its address) and dtype, package versions, and the text.
    """
    spec = model.spec(role)
    versions = [__version__, *map(version, ("transformers", "tokenizers"))]
    runtime = model.choice(role).identity
    context = "\0".join((model.revision(role), role, spec.prompt(task), *runtime, *versions))
    prefix = hashlib.sha256(context.encode("utf-8", "surrogatepass"))
    keys = []
    for text in texts:
        digest = prefix.copy()
        digest.update(b"\0" + text.encode("utf-8", "surrogatepass"))
        keys.append(digest.digest())
    return keys
