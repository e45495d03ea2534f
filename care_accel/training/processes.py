"""Synchronisation of the processes of a run, as started by torchrun."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import PartialState

# Others wait while the main process encodes a teacher's vectors or mines negatives.
_TIMEOUT = timedelta(days=1)


def processes() -> PartialState:
    """Return the state of the process group; usually of a single process."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available(), timeout=_TIMEOUT)


@contextmanager
def main_process_first() -> Iterator[None]:
    """Run a block in the main process first; the others then find its files."""
    with processes().main_process_first():
        yield


def destroy_process_group() -> None:
    """Destroy the process group.

    References to it are collected first: a gloo thread that outlives the interpreter aborts the process, and torchrun
    would report a finished run as failed.
    """
    gc.collect()
    processes().destroy_process_group()
