"""Interface of a curation step: it takes a configuration and a progress callback, and returns a summary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

# Takes a description and a total; yields a function that takes the number of further items done.
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass
class Summary:
    """Result of a step, for printing.

    Attributes
    ----------
    facts : dict of str to object
        Printed one per line, in this order.
    table : list of sequence of str
        The first row is the header.
    files : list of Path
        Files that were written.
    warnings : list of str
        Problems that did not stop the step.
    failed : bool
        Whether the command exits with code 1: leaks were found, or pairs could not be judged.
    """

    facts: dict[str, object] = field(default_factory=dict)
    table: list[Sequence[str]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    failed: bool = False


@contextmanager
def no_progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show nothing."""
    yield lambda count: None
