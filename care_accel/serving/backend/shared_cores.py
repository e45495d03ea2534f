"""Threads of what a served model runs, which shares the cores with the server, its clients and the other models."""

from __future__ import annotations

from typing import Protocol

# Weights or vectors below this size fit in the CPU cache and are read in a fraction of a millisecond.
_SMALL_BYTES = 16 * 2**20


class Threaded(Protocol):
    """A network or an index."""

    threads: int


class SharedCores:
    """Gives a network or an index its threads for each batch: `fair_threads`, or all where a single client waits.

    Parameters
    ----------
    worker : Threaded
    threads : int
        All that it may have.
    read : int
        Bytes that it reads for a query.
    """

    def __init__(self, worker: Threaded, threads: int, read: int) -> None:
        self._worker, self._all, self._fair = worker, threads, fair_threads(threads, read)
        self._before = 0
        self.share(0)

    def share(self, texts: int) -> None:
        """Set the threads for a batch of so many texts.

        A text that comes alone, as the one before it did, is that of a single client. Many clients have batches of one as
        well, but between larger ones, and meanwhile the other cores work for them.
        """
        self._worker.threads = self._all if texts == self._before == 1 else self._fair
        self._before = texts


def fair_threads(threads: int, read: int) -> int:
    """Return the threads of a model that reads a number of bytes per query.

    Here the server, its clients and the other models compete for cores, and a thread that waits for one delays the end
    of a short task.
    """
    return max(1, threads // 2) if read < _SMALL_BYTES else threads
