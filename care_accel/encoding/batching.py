"""Which texts share a batch: alike in length, and no more tokens than the budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def plan_batches(lengths: Sequence[int], batch_size: int, token_budget: int) -> Iterator[list[int]]:
    """Group texts into batches, longest first, so that little is padded.

    Longest first means that the batch needing most memory comes at once: what fits then, fits to the end.

    Parameters
    ----------
    lengths : sequence of int
        Tokens of each text.
    batch_size : int
        Texts in a batch at most.
    token_budget : int
        Texts times the longest length of a batch at most; a single longer text makes its own batch.

    Yields
    ------
    list of int
        Positions in ``lengths``; every position comes once.
    """
    by_length = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(by_length):
        longest = max(1, lengths[by_length[start]])
        size = max(1, min(batch_size, token_budget // longest))
        yield by_length[start : start + size]
        start += size
