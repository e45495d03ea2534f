"""Several processes of one run, as torchrun starts them: which one writes, and which ones wait."""

from __future__ import annotations

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
