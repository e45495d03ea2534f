"""The documents of an embedded data set, for a repository without an index: encoded once on a machine, and kept."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from care_accel.encoding.loading.sources import EMBEDDED
from care_accel.errors import CareError
from care_accel.files import cache_folder, read_jsonl
from care_accel.retriever import Retriever
from care_accel.serving.backend import RUN_FOLDER
from care_accel.serving.backend.encoders import load_model
from care_accel.serving.backend.tensors import Backend
from care_accel.version import __version__


def embedded_documents(backend: Backend, made_by: Any, name: str) -> Retriever:
    """Return the retriever of an embedded data set, for a repository without an index.

    Encoding takes many seconds of every core. So the first model that needs the vectors leaves them in the user's cache, for the
    other models of this server and for later starts: they are the same as long as data set, model, its options and this release
    are. Where the cache cannot be written, they are in the server's own folder, if it has one.

    Parameters
    ----------
    backend : Backend
    made_by : RecordedModel
        Identity of the document encoder.
    name : str
        Of the data set.
    """
    file = EMBEDDED / name / "retrieval" / name / "corpus.jsonl"
    made_of = [name, made_by.document, backend.parameters["load"], backend.device, __version__]
    key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode() + file.read_bytes()).hexdigest()[:16]
    made = None
    for base in _bases():
        folder = base / f"{name}-{key}"
        with contextlib.suppress(OSError), _locked(folder):
            if folder.exists():
                with contextlib.suppress(CareError):  # damaged: written again
                    return Retriever.load(folder, made_by)
            made = made or _encode(backend, made_by, file)
            with contextlib.suppress(CareError):  # the disk is full
                made.save(folder)
                return Retriever.load(folder, made_by)
    return made or _encode(backend, made_by, file)


def _bases() -> Iterator[Path]:
    with contextlib.suppress(RuntimeError):  # no home folder
        yield cache_folder() / "documents"
    if run := os.environ.get(RUN_FOLDER):
        yield Path(run)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder that one process at a time may make."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _encode(backend: Backend, made_by: Any, file: Path) -> Retriever:
    rows = [row for _, row in read_jsonl(file)]
    model = load_model(backend, {"document": made_by.document})
    # Title and text as mteb joins them, so that scores match an evaluation.
    built = Retriever.from_documents(model, [f"{row['title']} {row['text']}".strip() for row in rows])
    return Retriever(made_by, built.index, rows)  # without the model, which is not needed any more
