"""Where a text may be cut, best places first: sentence ends, clause ends, spaces, and whatever else keeps its tokens few."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterator

# Levels of breaks; sentence ends have 0.
CLAUSE = 1
_SPACE = 2

# Yields ascending places between ``start`` and ``end`` at which a text may be cut; the starts of its tokens come last.
_Find = Callable[[str, int, int, list[int]], Iterator[int]]


class Breaks:
    """Where a text may be cut: the ends of its pieces, each with its level, 0 for sentence ends.

    No piece has more than ``limit`` tokens, but for single code points. None ends with white space: it begins the next.
    """

    def __init__(self, text: str, starts: list[int], limit: int) -> None:
        self.text, self.starts = text, starts
        self.ends: list[int] = [len(text.rstrip())]
        self.levels: list[int] = [0]
        for level, find in enumerate(_LEVELS):
            self._refine(level, find, limit)

    def _refine(self, level: int, find: _Find, limit: int) -> None:
        ends: list[int] = []
        levels: list[int] = []
        start = 0
        for end, coarser in zip(self.ends, self.levels, strict=True):
            if level == 0 or self.before(end) - self.first(self._solid(start)) > limit:
                found = [
                    place
                    for place in find(self.text, start, end, self.starts)
                    if start < place < end and self._allowed(place, level)
                ]
                ends += found
                levels += [level] * len(found)
            ends.append(end)
            levels.append(coarser)
            start = end
        self.ends, self.levels = ends, levels

    def _allowed(self, place: int, level: int) -> bool:
        if self.text[place - 1].isspace():
            return False
        following = self._solid(place)
        return level > _SPACE or not _joined(self.text[following - 1], self.text[following])

    def first(self, start: int) -> int:
        """Return the number of the first token that is not wholly before a place."""
        at = bisect_left(self.starts, start)
        # A token that starts before the place is taken to reach it.
        return at if at < len(self.starts) and self.starts[at] == start else max(at - 1, 0)

    def before(self, end: int) -> int:
        """Return how many tokens start before a place."""
        return bisect_left(self.starts, end)

    def start_after(self, piece: int) -> int:
        """Return where the text goes on after a piece, behind white space; -1 is before the first piece."""
        return self._solid(self.ends[piece] if piece >= 0 else 0)

    def clauses(self, start: int, end: int) -> Iterator[int]:
        """Yield where clauses start between two places, without white space before them."""
        for place in _clause_ends(self.text, max(start - 1, 0), end, self.starts):
            if place < end and self._allowed(place, CLAUSE):
                yield self._solid(place)

    def _solid(self, place: int) -> int:
        found = _SOLID.search(self.text, place)
        return found.start() if found else len(self.text)


_SOLID = re.compile(r"\S")
_SPACES = re.compile(r"\s+")
_CLOSING = "\"'”’」』〞）)】〗》〉〕］\\]｝}»›"
_SENTENCE_END = re.compile(rf"[。！？；…｡．.!?;]+[{_CLOSING}]*")
_CLAUSE_END = re.compile(rf"[，、：﹐､,:—]+[{_CLOSING}]*")
# These end a sentence whatever follows; the others only before a space, the text's end or a Chinese character.
_ALWAYS_END = frozenset("。！？；…｡")
_CHINESE = re.compile(
    "[\u2e80-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef\u2014\u2018-\u201f\U00020000-\U0003ffff]"
)
# What stands before a full stop that ends no sentence: titles and the like, initials, numbers at the start of a line.
_ABBREVIATED = re.compile(
    r"(?:\b(?:dr|drs|mr|mrs|ms|prof|st|vs|fig|figs|no|nos|vol|pp|cf|ca|approx|al|dept|eq|ref|refs)"
    r"|(?<![a-z])[a-z]|(?:^|\n)\s*\d{1,3})$",
    re.IGNORECASE | re.ASCII,
)
_LOOK_BACK = 12  # more than the longest of them


def _sentence_ends(text: str, start: int, end: int, starts: list[int]) -> Iterator[int]:
    lines = (
        run.start() for run in _SPACES.finditer(text, start, end) if len(run[0].splitlines()[0]) < len(run[0])
    )
    marks = (mark.end() for mark in _SENTENCE_END.finditer(text, start, end) if _ends_sentence(text, mark))
    return iter(sorted({*lines, *marks}))


def _ends_sentence(text: str, mark: re.Match[str]) -> bool:
    marks, after = mark[0], text[mark.end() : mark.end() + 1]
    if not _ALWAYS_END.isdisjoint(marks):
        return True
    if after and not after.isspace() and not _CHINESE.match(after):
        return False  # 3.5, U.S.A., a.b; of a query string
    if marks[0] not in ".．" or marks[1:2] in {".", "．"}:
        return True
    before = text[max(mark.start() - _LOOK_BACK, 0) : mark.start()]
    if after and _CHINESE.match(after):
        return bool(_CHINESE.match(before[-1:]))  # not 1.高血压
    if _ABBREVIATED.search(before if mark.start() <= _LOOK_BACK else "\0" + before):
        return False
    following = _SOLID.search(text, mark.end(), mark.end() + 2)
    return not (following and following[0].islower())


def _clause_ends(text: str, start: int, end: int, starts: list[int]) -> Iterator[int]:
    for mark in _CLAUSE_END.finditer(text, start, end):
        number = mark[0] in {",", ":"} and text[mark.end() : mark.end() + 1].isdigit()  # 1,000 and 12:30
        if not number:
            yield mark.end()


def _spaces(text: str, start: int, end: int, starts: list[int]) -> Iterator[int]:
    return (run.start() for run in _SPACES.finditer(text, start, end))


def _tokens(text: str, start: int, end: int, starts: list[int]) -> Iterator[int]:
    between = set(starts[bisect_left(starts, start) : bisect_left(starts, end)])
    return (place for place in _characters(text, start, end, starts) if place in between)


def _characters(text: str, start: int, end: int, starts: list[int]) -> Iterator[int]:
    """Yield the places between characters with what belongs to them: the rules of Unicode that matter for text."""
    flags = 0  # letters of flags in a row; each two are one flag
    for place in range(start + 1, end):
        last, this = text[place - 1], text[place]
        flags = flags + 1 if _is_flag(last) else 0
        if not (_joined(last, this) or (flags % 2 == 1 and _is_flag(this))):
            yield place


def _joined(last: str, this: str) -> bool:
    return (
        last == _JOINER
        or this in _EXTENDING
        or unicodedata.category(this)[0] == "M"
        or "\u1160" <= this <= "\u11ff"  # vowels and final consonants of Hangul in parts
        or ("\ud800" <= last <= "\udbff" and "\udc00" <= this <= "\udfff")  # halves, of broken JSON
    )


_JOINER = "\u200d"
# Joiners, skin tones and tags; marks and variation selectors are recognised by their category.
_EXTENDING = frozenset(
    {_JOINER, "\u200c", *map(chr, range(0x1F3FB, 0x1F400)), *map(chr, range(0xE0020, 0xE0080))}
)


def _is_flag(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def _code_points(text: str, start: int, end: int, starts: list[int]) -> Iterator[int]:
    return iter(range(start + 1, end))


_LEVELS: tuple[_Find, ...] = (_sentence_ends, _clause_ends, _spaces, _tokens, _characters, _code_points)
