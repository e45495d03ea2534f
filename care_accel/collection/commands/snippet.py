"""What of a text is shown for a query: the part where most of it matches, with the matches marked."""

from __future__ import annotations

import re
import unicodedata

from rich.cells import cell_len, set_cell_size
from rich.text import Text

_WORD = re.compile(r"[0-9a-z]+|[^\W\da-z_]", re.IGNORECASE)
_MARKED = "bold yellow"


def snippet(text: str, query: str, width: int) -> Text:
    """Return a part of a text that fits a line.

    Parameters
    ----------
    text : str
    query : str
        Marked are its words of Latin letters and digits, and its pairs of Chinese characters, one character where it has
        only one.
    width : int
        Cells of a terminal; a Chinese character takes two.
    """
    line = " ".join(text.split())
    matched = _matches(line, query)
    start = _best_start(line, matched, width)
    shown = ("…" if start else "") + line[start:]
    if cell_len(shown) > width:
        shown = set_cell_size(shown, width - 1).rstrip() + "…"
    found = Text(shown, no_wrap=True, overflow="crop", end="")
    offset = start - bool(start)
    for place in range(1 if start else 0, len(shown)):
        if place + offset < len(line) and matched[place + offset] and shown[place] != "…":
            found.stylize(_MARKED, place, place + 1)
    return found


def _folded(text: str) -> str:
    """Return a text of the same length in which what is the same to a reader is equal."""
    return "".join(
        folded if len(folded := unicodedata.normalize("NFKC", character).lower()) == 1 else character
        for character in text
    )


def _matches(line: str, query: str) -> list[bool]:
    """Return which characters of a line belong to a part of the query."""
    matched = [False] * len(line)
    folded = _folded(line)
    for part in _parts(_folded(query)):
        start = folded.find(part)
        while start >= 0:
            matched[start : start + len(part)] = [True] * len(part)
            start = folded.find(part, start + 1)
    return matched


def _parts(query: str) -> set[str]:
    words = [match.group() for match in _WORD.finditer(query)]
    runs = re.findall(r"[^\W\da-z_]+", query)
    pairs = {run[i : i + 2] for run in runs for i in range(len(run) - 1)}
    whole = {word for word in words if len(word) > 1}
    return pairs | whole or set(words)


def _best_start(line: str, matched: list[bool], width: int) -> int:
    """Return where the part that fits and has most matches starts, the first of equal ones."""
    if cell_len(line) <= width:
        return 0
    cells = [cell_len(character) for character in line]
    best = best_start = end = filled = count = 0
    for start in range(len(line)):
        while end < len(line) and filled + cells[end] <= width - 2:
            filled += cells[end]
            count += matched[end]
            end += 1
        if count > best:
            best, best_start = count, start
        filled -= cells[start]
        count -= matched[start]
    # Some words before the first match say what it is about.
    context = best_start
    room = width // 6
    while context and room > 0 and best_start:
        context -= 1
        room -= cells[context]
    return 0 if cell_len(line[:best_start]) <= width // 6 else context
