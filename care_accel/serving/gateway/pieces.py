"""Cuts the texts of a request into pieces for the inference server."""

from __future__ import annotations

from collections.abc import Sequence

# As many as the client has under way at once: four of the server's largest batches.
MAX_TEXTS = 256
# Bounds the time of a piece, whose deadline is that of a whole request: some 15,000 tokens, of which a slow CPU makes
# vectors in some ten seconds.
MAX_BYTES = 64 * 2**10


def cut(texts: Sequence[str], max_texts: int = MAX_TEXTS, max_bytes: int = MAX_BYTES) -> list[range]:
    """Return the positions of each piece, in the order of the texts.

    Parameters
    ----------
    texts : sequence of str
    max_texts : int
        Maximum texts of a piece.
    max_bytes : int
        Maximum bytes of a piece in UTF-8; a longer text is a piece of its own.
    """
    pieces, start, held = [], 0, 0
    for position, text in enumerate(texts):
        length = len(text.encode("utf-8"))
        if position > start and (position - start == max_texts or held + length > max_bytes):
            pieces.append(range(start, position))
            start, held = position, 0
        held += length
    return [*pieces, range(start, len(texts))]
