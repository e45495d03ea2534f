"""A worker of a cluster: one process, or one GPU, that encodes parts one after another. What fails is returned as text."""

from __future__ import annotations

import os
import pickle
import socket
from typing import Any

from care_accel.cluster.part import Job, PartEncoder, SetAside, SourceError
from care_accel.cluster.plan import Part
from care_accel.cluster.run_folder import RunFolder
from care_accel.errors import CareError
from care_accel.version import __version__


class Worker:
    """Encodes parts.

    Parameters
    ----------
    job : Job
    model : bytes
        A pickle of the dual encoder: where its files are, and their hash.
    threads : int, optional
        Threads of the native runtime.
    version : str
        Release of the driver.
    """

    def __init__(self, job: Job, model: bytes, threads: int | None, version: str) -> None:
        self._job, self._model = job, model
        self._threads, self._version = threads, version
        self._encoder: PartEncoder | None = None

    def where(self) -> tuple[str, int]:
        """Return the name of the machine and the number of the process."""
        return socket.gethostname(), os.getpid()

    def start(self) -> dict[str, Any]:
        """Load the network; return its runtime, or what is wrong (``error``)."""
        try:
            if self._version != __version__:
                raise CareError(
                    f"the worker has care-accel {__version__}, the driver {self._version}; install one on all machines"
                )
            run = RunFolder.of(self._job.uri, self._job.storage_options)
            self._encoder = PartEncoder(self._job, pickle.loads(self._model), run, self._threads)
        except Exception as cause:
            return {"error": _line(cause)}
        return {"runtime": self._encoder.runtime}

    def encode(self, part: Part) -> dict[str, Any]:
        """Encode a part; return its record, or what is wrong (``error``) and of what ``kind``: source, aside or other."""
        try:
            if self._encoder is None:
                raise CareError("the worker has not started")
            return {"record": self._encoder.encode(part)}
        except SourceError as cause:
            return {"error": _line(cause), "kind": "source"}
        except SetAside as cause:
            return {"error": _line(cause), "kind": "aside"}
        except Exception as cause:
            return {"error": _line(cause), "kind": "other"}


def _line(cause: Exception) -> str:
    text = " ".join(str(cause).split())[:600]
    return text if isinstance(cause, CareError) and text else f"{type(cause).__name__}: {text}"
