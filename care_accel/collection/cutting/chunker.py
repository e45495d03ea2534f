"""Documents to the texts that are encoded: whole, or in chunks that the title leads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from care_accel.collection.cutting.chunking import Span, cut_texts, token_starts
from care_accel.collection.storage.manifest import Manifest
from care_accel.encoding import DualEncoder
from care_accel.encoding.base import BaseEncoder
from care_accel.errors import CareError, require_count

# Behind its title a chunk may have a few more tokens than alone.
_SPARE = 4


class Chunker:
    """Cuts documents as a collection's manifest says.

    Parameters
    ----------
    manifest : Manifest
    encoder : BaseEncoder
        The document encoder. Chunks need its tokenizer: one that has none, as of an inference server, gets that of the
        model that the manifest records.

    Attributes
    ----------
    name : str
        Names how documents are cut; part of the hash of what was encoded.
    """

    def __init__(self, manifest: Manifest, encoder: BaseEncoder) -> None:
        self._tokens = manifest.chunk_tokens
        self._overlap = manifest.chunk_overlap
        self._tokenizer: Any = None
        self.name = "whole" if self._tokens is None else f"{self._tokens}/{self._overlap}"
        if self._tokens is not None:
            self._tokenizer = getattr(encoder, "tokenizer", None) or recorded_tokenizer(manifest)

    def cut(self, titles: Sequence[str], texts: Sequence[str]) -> tuple[list[list[Span]], list[str]]:
        """Return the spans of each document's chunks, and the texts of all chunks in that order."""
        if self._tokens is None:
            return [[Span(0, len(text))] for text in texts], [
                with_title(title, text) for title, text in zip(titles, texts, strict=True)
            ]
        most = self._tokens // 2
        leading, rooms = [], []
        for title, starts in zip(titles, token_starts(self._tokenizer, titles), strict=True):
            # A title that is longer leaves no place for the text.
            leading.append(title[: int(starts[most])] if len(starts) > most else title)
            rooms.append(self._tokens - min(len(starts), most))
        spans: list[list[Span]] = [[] for _ in texts]
        for room in sorted(set(rooms)):
            rows = [row for row, of_text in enumerate(rooms) if of_text == room]
            some = [texts[row] for row in rows]
            found = cut_texts(self._tokenizer, some, room, min(self._overlap, room - 1))
            for row, of_text in zip(rows, found, strict=True):
                spans[row] = of_text
        chunks = [
            with_title(title, text[span.start : span.end])
            for title, text, of_text in zip(leading, texts, spans, strict=True)
            for span in of_text
        ]
        return spans, chunks


def recorded_tokenizer(manifest: Manifest) -> Any:
    """Return the tokenizer of the document encoder that a manifest records; its network is not loaded.

    Raises
    ------
    CareError
        The model is not recorded, is not there, or has changed since.
    """
    needed = "this collection cuts documents into chunks, which needs the tokenizer of its model"
    if not manifest.load:
        raise CareError(f"{needed}, and the folder of {manifest.model} is not recorded; use a local model")
    try:
        return _open_tokenizer(json.dumps(manifest.load, sort_keys=True), manifest.revision)
    except CareError as cause:
        raise CareError(f"{needed}: {cause}") from None


@lru_cache(maxsize=4)  # an upsert of a few documents should not read a vocabulary each time
def _open_tokenizer(load: str, revision: str) -> Any:
    arguments = json.loads(load)
    model = DualEncoder.from_pretrained(**arguments)
    if (found := model.revision("document")) != revision:
        raise CareError(
            f"{model.name} has document encoder {found}, not {revision}, which made the collection"
        )
    return model.source("document").checkpoint.open_tokenizer()


def with_title(title: str, text: str) -> str:
    """Join title and text as mteb does, so that scores match an evaluation."""
    return f"{title} {text}".strip() if title else text


def check_chunking(chunk_tokens: int | None, chunk_overlap: int, encoder: Any) -> None:
    """Check that chunks fit the model, before a collection is made.

    Raises
    ------
    CareError
        A number is wrong, or a chunk would be cut by the model.
    """
    if chunk_tokens is None:
        if chunk_overlap:
            raise CareError("chunk_overlap needs chunk_tokens")
        return
    require_count("chunk_tokens", chunk_tokens)
    if type(chunk_overlap) is not int or not 0 <= chunk_overlap < chunk_tokens:
        raise CareError(
            f"chunk_overlap is {chunk_overlap!r}; it must be 0 to {chunk_tokens - 1} (below chunk_tokens)"
        )
    if not hasattr(encoder, "tokenize"):
        raise CareError("chunk_tokens needs a local document encoder: its tokenizer counts the tokens")
    around = len(encoder.tokenize([""])[0])
    most = encoder.spec.max_tokens
    if chunk_tokens + around + _SPARE > most:
        raise CareError(
            f"chunk_tokens is {chunk_tokens}; the model takes {most} tokens, of which prompt and special tokens need "
            f"{around}: use at most {most - around - _SPARE}"
        )
