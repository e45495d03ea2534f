"""Several processes of one run, as torchrun starts them: which one writes, and which ones wait."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import PartialState

# While one process encodes a teacher's vectors or mines, the others wait, for a day if need be.
_LONGEST_WAIT = timedelta(days=1)


def processes() -> PartialState:
    """Return the run's processes; one alone is the usual case."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available(), timeout=_LONGEST_WAIT)


@contextmanager
def one_after_the_first() -> Iterator[None]:
    """Let the first process do something before the others do it: they find what it wrote."""
    with processes().main_process_first():
        yield


def leave() -> None:
    """End the run's processes together.

    What holds the group is freed first: a thread of gloo's that outlives the interpreter aborts it, and
    torchrun would call a finished run failed.
    """
    gc.collect()
    processes().destroy_process_group()
