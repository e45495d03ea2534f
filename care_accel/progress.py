"""The library's own progress bar: on standard error, on a terminal only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Called with how many more are done.
Advance = Callable[[int], None]


@contextmanager
def progress_bar(description: str, total: int, *, show: bool = True) -> Iterator[Advance]:
    """Draw a bar while the context is open, and remove it at the end.

    Parameters
    ----------
    description : str
    total : int
    show : bool
        Without it nothing is imported or drawn: a query must not wait for a bar that nobody sees.

    Yields
    ------
    callable
        To be called with how many more are done.
    """
    if show:
        from rich.console import Console

        console = Console(stderr=True)
        show = console.is_terminal
    if not show:
        yield lambda count: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(description, total=total)
        yield lambda count: progress.advance(task, count)
