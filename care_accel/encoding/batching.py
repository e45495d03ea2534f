"""Groups texts of similar length into batches, within a token budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def plan_batches(lengths: Sequence[int], batch_size: int, token_budget: int) -> Iterator[list[int]]:
    """Group texts of similar length into batches, longest first, to minimise padding.

    The first batch needs the most memory, so an out-of-memory error occurs at the start or not at all.

    Parameters
    ----------
    lengths : sequence of int
        Tokens of each text.
    batch_size : int
        Maximum texts per batch.
    token_budget : int
        Maximum padded tokens per batch (texts times the longest length). A longer text gets a batch of its own.

    Yields
    ------
    list of int
        Positions in ``lengths``; each position occurs exactly once.
    """
    by_length = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(by_length):
        longest = max(1, lengths[by_length[start]])
        size = max(1, min(batch_size, token_budget // longest))
        yield by_length[start : start + size]
        start += size
