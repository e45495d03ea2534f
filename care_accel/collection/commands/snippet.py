"""What of a text is shown for a query: the part where most of it matches, with the matches marked."""

from __future__ import annotations

import re
import unicodedata

from rich.cells import cell_len, set_cell_size
from rich.text import Text

_WORD = re.compile(r"[0-9a-z]+|[^\W\da-z_]", re.IGNORECASE)
_MARKED = "bold yellow"
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


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
    line = one_line(text)
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


def one_line(text: str) -> str:
    """Return a text in one line, without what a terminal would obey."""
    return _CONTROLS.sub("\ufffd", " ".join(text.split()))


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
    """Return where the part that fits and has most matches starts."""
    if cell_len(line) <= width:
        return 0
    room = width - 2  # for the marks of what is left out
    cells = [cell_len(character) for character in line]
    best = best_start = best_end = end = filled = count = 0
    for start in range(len(line)):
        while end < len(line) and filled + cells[end] <= room:
            filled += cells[end]
            count += matched[end]
            end += 1
        # Of equal ones the last, which starts with a match.
        if count > best or (count == best > 0 and start <= best_end and matched[start]):
            best, best_start, best_end = count, start, end
        filled -= cells[start]
        count -= matched[start]
    if not best:
        return 0
    # Some words before the first match say what it is about, as far as the last one still fits.
    last = max(place for place in range(best_start, best_end) if matched[place])
    spare = min(room - sum(cells[best_start : last + 1]), width // 6)
    while best_start and cells[best_start - 1] <= spare:
        best_start -= 1
        spare -= cells[best_start]
    return best_start
