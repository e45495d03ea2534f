"""Reads documents: sources to rows, with their places, their bad rows and the progress."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from care_accel.collection.sources.find import Source, find_sources
from care_accel.collection.sources.rows import BadRow, Row, Selection
from care_accel.collection.sources.streams import known_encoding
from care_accel.errors import CareError, not_written

log = logging.getLogger(__name__)


def read_documents(
    paths: str | Path | Sequence[str | Path],
    *,
    id: str | None = None,
    text: str = "text",
    title: str | None = None,
    fields: Sequence[str] | None = None,
    encoding: str = "utf-8",
    skip_bad: str | Path | None = None,
) -> DocumentReader:
    """Open sources of documents.

    Parameters
    ----------
    paths : str, Path or sequence of them
        Files of JSON lines, of CSV or TSV with a header, or of Parquet: told apart by their content, the first three also
        compressed with gzip or zstd. Folders in BEIR's layout (``corpus.jsonl`` is read), of such files, or of a saved data
        set. ``"hf:OWNER/NAME"`` for a data set of the Hugging Face hub, with ``:CONFIGURATION`` or ``:CONFIGURATION:SPLIT``
        behind it where it has several. ``"-"`` for standard input.
    id : str, optional
        Name of the documents' id, a string or an integer; by default ``_id`` or ``id``, whichever there is.
    text : str
    title : str, optional
        By default ``title``, where there is one.
    fields : sequence of str, str or None
        Further values to take: some, ``"*"`` for all others, or none. Those of CSV are text; ``"year:int"`` turns text into integers,
        and so do ``:float``, ``:bool`` and ``:str``. Those of JSON and Parquet have types: strings, integers of 64 bits,
        floats, bools, null (also for NaN) and lists of strings.
    encoding : str
        Of text: "utf-8", "gb18030" (also "gbk", "gb2312") or "big5".
    skip_bad : str or Path, optional
        Leave out rows that are no documents, and write place and reason of each to this file of JSON lines, of mode 0600.

    Returns
    -------
    DocumentReader

    Raises
    ------
    CareError
        A source is missing, empty or nothing that is read here; ``skip_bad`` cannot be written. Rows are read later.
    """
    selection = Selection(id, text, title, fields)
    encoding = known_encoding(encoding)
    sources = find_sources([paths] if isinstance(paths, str | Path) else paths)
    skipped = _open_private(Path(skip_bad)) if skip_bad is not None else None
    return DocumentReader(sources, selection, encoding, skipped)


class DocumentReader:
    """An iterator of documents, for one pass: dicts with ``id``, ``title``, ``text``, each a str, and the fields.

    A row that is no document raises `CareError` with its place when it is reached, after all documents before it; with
    ``skip_bad`` it is left out. Created by `read_documents`.

    Attributes
    ----------
    place : str
        Where the last document came from, such as "corpus.jsonl.gz, line 12".
    skipped : int
        Rows left out so far.
    """

    def __init__(
        self, sources: list[Source], selection: Selection, encoding: str, skipped: IO[str] | None
    ) -> None:
        self.place = ""
        self.skipped = 0
        self._sources, self._selection, self._encoding = sources, selection, encoding
        self._skipped = skipped
        self._finished = 0
        self._current: Source | None = None
        self._documents = self._read()
        self._waiting: list[Row] = []

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Row:
        return self._waiting.pop() if self._waiting else next(self._documents)

    def read_first(self) -> None:
        """Read the first document, which stays the next one: what is wrong with a source is told before anything is made of it."""
        if not self._waiting and (first := next(self._documents, None)) is not None:
            self._waiting.append(first)

    def located(self) -> Iterator[tuple[Row, str]]:
        """Yield each document with the place it came from."""
        for document in self:
            yield document, self.place

    def reject(self, reason: str) -> bool:
        """Leave out the last document, which cannot be stored; return False if nothing may be left out."""
        if self._skipped is None:
            return False
        self._leave_out(self.place, BadRow(reason.removeprefix(self.place).lstrip(": ")))
        return True

    def fraction(self) -> float | None:
        """Return which part of all bytes is read, from 0 to 1; None if a source is a pipe."""
        sizes = [source.size for source in self._sources]
        known = [size for size in sizes if size is not None]
        if len(known) < len(sizes):
            return None
        done = self._finished + (self._current.done() if self._current is not None else 0)
        return min(done / total, 1.0) if (total := sum(known)) else 1.0

    def close(self) -> None:
        """Close what is open; no document follows."""
        self._documents.close()
        if self._skipped is not None:
            self._skipped.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> Generator[Row]:
        for source in self._sources:
            self._current = source
            for place, row in source.rows(self._encoding, self._selection):
                try:
                    if isinstance(row, BadRow):
                        raise row
                    replaced = self._selection.replaced_surrogates
                    document = self._selection.document(row, place)
                except BadRow as bad:
                    self._leave_out(place, bad)
                    continue
                if self._selection.replaced_surrogates > replaced == 0:
                    log.warning("%s: lone surrogates were replaced by U+FFFD (said once)", place)
                self.place = place
                yield document
            self._current = None
            self._finished += source.size or 0

    def _leave_out(self, place: str, bad: BadRow) -> None:
        if self._skipped is None:
            raise CareError(f"{place}: {bad}") from None
        self.skipped += 1
        try:
            self._skipped.write(json.dumps({"place": place, "reason": str(bad)}, ensure_ascii=False) + "\n")
            self._skipped.flush()
        except OSError as cause:
            raise not_written(self._skipped.name, cause) from None


def _open_private(file: Path) -> IO[str]:
    try:
        number = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.fchmod(number, 0o600)  # one that was there keeps its mode otherwise
        return os.fdopen(number, "w", encoding="utf-8", errors="replace")
    except OSError as cause:
        raise not_written(file, cause) from None
