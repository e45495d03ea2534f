"""Progress bars, on standard error and only on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Called with the number of newly finished items.
Advance = Callable[[int], None]


@contextmanager
def progress_bar(description: str, total: int | None, *, show: bool = True) -> Iterator[Advance]:
    """Show a progress bar while the context is open.

    Parameters
    ----------
    description : str
    total : int or None
        None if it is not known.
    show : bool
        If false, nothing is shown and rich is not imported, to keep queries fast.

    Yields
    ------
    callable
        Call it with the number of newly finished items.
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
