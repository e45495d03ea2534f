"""Cuts texts into chunks that an encoder can take whole: at sentence ends, where sentences are not too long themselves.

The tokens of a text are counted once, in the text as a whole; a chunk has those that overlap it. Breaks come in levels:
sentence ends, clause ends, spaces, between tokens, between characters as a reader sees them, between code points. A stretch
that is longer than a chunk between two breaks of one level is broken at the next, and at no other place; chunks are then
filled from left to right.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from care_accel.collection.cutting.breaks import CLAUSE, Breaks
from care_accel.errors import CareError, require_count
from care_accel.files import replace_lone_surrogates

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from care_accel.encoding.loading.plain_tokenizer import PlainTokenizer


class Span(NamedTuple):
    """A part of a text, in Unicode code points: ``text[start:end]``."""

    start: int
    end: int


def cut(
    text: str, token_starts: Sequence[int] | NDArray[np.integer], chunk_tokens: int, chunk_overlap: int = 0
) -> list[Span]:
    """Cut a text into chunks.

    Parameters
    ----------
    text : str
    token_starts : sequence of int
        Where the text's tokens start, in code points, ascending: see `token_starts`.
    chunk_tokens : int
        Tokens of a chunk at most. The only chunks with more are single code points that have more themselves. A chunk
        that is tokenised alone may have a token or two more than inside the text: see `cut_texts`.
    chunk_overlap : int
        Tokens at most that a chunk repeats of the one before, less than ``chunk_tokens``: as many whole sentences as fit;
        where none fits, whole clauses; only after a cut inside a clause, parts of it.

    Returns
    -------
    list of Span
        At least one. Starts and ends ascend, all that is not white space is in a chunk, and chunks neither begin nor end
        with white space. A text that fits is one chunk, as it is.

    Raises
    ------
    CareError
        The numbers are not as said.
    """
    require_count("chunk_tokens", chunk_tokens)
    if chunk_overlap != 0:
        require_count("chunk_overlap", chunk_overlap)
    if chunk_overlap >= chunk_tokens:
        raise CareError(
            f"chunk_overlap is {chunk_overlap}; it must be less than chunk_tokens, {chunk_tokens}"
        )
    starts = [int(start) for start in token_starts]
    if len(starts) <= chunk_tokens:
        return [Span(0, len(text))]
    if not text.strip():
        return [Span(0, 0)]
    return list(_filled(Breaks(text, starts, chunk_tokens), chunk_tokens, chunk_overlap))


def cut_texts(
    tokenizer: PlainTokenizer | PreTrainedTokenizerFast,
    texts: Sequence[str],
    chunk_tokens: int,
    chunk_overlap: int = 0,
) -> list[list[Span]]:
    """Cut texts into chunks that have at most ``chunk_tokens`` tokens when each is tokenised alone.

    At the ends of a chunk a tokenizer may find other tokens than inside the text: a token or two more. Texts with a chunk
    that has too many for this reason are cut anew with a smaller limit.

    Parameters
    ----------
    tokenizer : PlainTokenizer or transformers.PreTrainedTokenizerFast
        As for `token_starts`.
    texts : sequence of str
    chunk_tokens, chunk_overlap : int
        As for `cut`, for tokens of the text itself: an encoder that takes ``max_tokens`` has room for as many less its
        special tokens, its prompt, and a title that is put before each chunk.

    Returns
    -------
    list of list of Span
        As `cut` returns them, for each text.

    Raises
    ------
    CareError
        As by `cut` and `token_starts`.
    """
    starts = token_starts(tokenizer, texts)
    spans = [cut(text, at, chunk_tokens, chunk_overlap) for text, at in zip(texts, starts, strict=True)]
    limits = {i: chunk_tokens for i, found in enumerate(spans) if len(found) > 1}
    while limits:
        chunks = [(i, span) for i in limits for span in spans[i]]
        alone = token_starts(tokenizer, [texts[i][span.start : span.end] for i, span in chunks])
        excess: dict[int, int] = {}
        for (i, span), tokens in zip(chunks, alone, strict=True):
            if (more := len(tokens) - chunk_tokens) > 0 and span.end - span.start > 1:
                excess[i] = max(more, excess.get(i, 0))
        limits = {i: max(limits[i] - more, 1) for i, more in excess.items() if limits[i] > 1}
        for i, limit in limits.items():
            spans[i] = cut(texts[i], starts[i], limit, min(chunk_overlap, limit - 1))
    return spans


def token_starts(
    tokenizer: PlainTokenizer | PreTrainedTokenizerFast, texts: Sequence[str]
) -> list[NDArray[np.int64]]:
    """Return where the tokens of each text start.

    Parameters
    ----------
    tokenizer : PlainTokenizer or transformers.PreTrainedTokenizerFast
        Of an encoder. It is not changed: its truncation stays as it is, and does not matter here.
    texts : sequence of str

    Returns
    -------
    list of int64 array
        For each text ``[tokens]``, ascending, in code points; without special tokens. Several tokens of one character, as of
        bytes, have the same start.

    Raises
    ------
    CareError
        The tokenizer gives no positions, as transformers' slow ones.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise CareError(
            f"the tokenizer {type(tokenizer).__name__} does not say where tokens are; chunks need a fast one"
        )
    # Lone surrogates, which tokenizers refuse, are replaced one by one: positions stay.
    clean = [replace_lone_surrogates(text)[0] for text in texts]
    return [_starts(encoding) for encoding in backend.encode_batch(clean, add_special_tokens=False)]


def _starts(encoding) -> NDArray[np.int64]:  # type: ignore[no-untyped-def]  # tokenizers.Encoding
    # Where truncation is on, what it cuts off is in the overflow.
    parts = [encoding, *encoding.overflowing]
    starts = [
        start
        for part in parts
        for (start, _), real in zip(part.offsets, part.attention_mask, strict=True)
        if real
    ]
    return np.sort(np.asarray(starts, np.int64))


def _filled(breaks: Breaks, limit: int, overlap: int) -> Iterator[Span]:
    ends, starts = breaks.ends, breaks.starts
    last, start = -1, breaks.start_after(-1)
    while True:
        following = breaks.first(start) + limit  # the first token that no longer fits
        reach = starts[following] if following < len(starts) else len(breaks.text)
        last = max(last + 1, bisect_right(ends, reach) - 1)
        yield Span(start, ends[last])
        if last == len(ends) - 1:
            return
        start = _next_start(breaks, last, start, limit, overlap)


def _next_start(breaks: Breaks, last: int, start: int, limit: int, overlap: int) -> int:
    """Return where the chunk after piece ``last`` starts: there or, for an overlap, earlier, but after ``start``."""
    # With its overlap the next chunk has to hold the next piece too, or it would lie inside the one before.
    earliest = max(breaks.before(breaks.ends[last]) - overlap, breaks.before(breaks.ends[last + 1]) - limit)
    finest = max(breaks.levels[last], CLAUSE)
    best, best_level = breaks.start_after(last), finest + 1
    for piece in range(last - 1, -1, -1):
        candidate = breaks.start_after(piece)
        if candidate <= start or breaks.first(candidate) < earliest:
            break
        if (level := breaks.levels[piece]) <= min(finest, best_level):
            best, best_level = candidate, level
    if best_level > CLAUSE and earliest < len(breaks.starts):  # a sentence that is not too long has no pieces
        for candidate in breaks.clauses(breaks.starts[earliest], breaks.ends[last]):
            if candidate > start and breaks.first(candidate) >= earliest:
                return candidate
    return best
