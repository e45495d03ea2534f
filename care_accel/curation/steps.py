"""What every step has in common: it is given a configuration and a way to show progress, and returns a summary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

# Called with a description and how many there are; gives a function that is called with how many are done more.
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass
class Summary:
    """What a step says at its end.

    Attributes
    ----------
    facts : dict of str to object
        Printed one a line, in this order.
    table : list of sequence of str
        The first row has the headings.
    files : list of Path
        What was written.
    warnings : list of str
        What went wrong without stopping the step.
    failed : bool
        Whether the command ends with exit code 1: leaks were found, or pairs could not be judged.
    """

    facts: dict[str, object] = field(default_factory=dict)
    table: list[Sequence[str]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    failed: bool = False


@contextmanager
def silent(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show nothing."""
    yield lambda count: None
