"""Texts as people type them and pages hold them: what is no part of what they say is taken out."""

from __future__ import annotations

import html
import re
from collections.abc import Callable

from care_accel.files import replace_lone_surrogates

SHORTEST = 4
LONGEST = 4000
_TAGS = "a|b|br|center|div|em|font|h[1-6]|hr|i|img|li|ol|p|script|span|strong|style|sub|sup|table|tbody|td|th|tr|u|ul"
_TAG = re.compile(rf"</?(?:{_TAGS})(?:\s[^<>]*)?/?>", re.IGNORECASE)
# Control characters but tab and line ends, the invisible ones that pages put between letters, and halves of emoji.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff]"
)
_QUOTES = re.compile("[\"“”'‘’`]{3,}")
_REPEATED = re.compile(r"([。！？!?,，、;；~～*＊=—_…-])\1{2,}")
_SPACE = re.compile(r"[ \t\u00a0\u3000]+")
_LINES = re.compile(r"\s*\n\s*")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]")
_BROKEN = "\ufffd"
# A part of a text that is as long as this and says the same character over and over says nothing.
_LONG = 20
_FEWEST_DISTINCT = 0.05


def clean_text(text: str, redact: Callable[[str], str] | None = None) -> str:
    """Return a text without what is no part of it.

    Taken out are HTML tags and entities (what they stand for stays), invisible and control characters, quotation
    marks three or more in a row, repeated punctuation but one of it, and white space but single blanks and line ends.
    Words, numbers, signs and the width of characters stay as they are.

    Parameters
    ----------
    text : str
    redact : callable, optional
        Takes out personal data; it sees the cleaned text, in which nothing invisible parts the digits of a number.

    Returns
    -------
    str
        Cleaning it once more changes nothing, if ``redact`` changes nothing once more.
    """
    text, _ = replace_lone_surrogates(text)
    # An entity may hide a tag, and a tag's removal may make an entity: until nothing changes.
    while (simpler := _clean_once(text)) != text:
        text = simpler
    return redact(text) if redact else text


def why_unusable(text: str, *, shortest: int = SHORTEST, longest: int = LONGEST) -> str | None:
    """Tell why a cleaned text is no Chinese text to train on.

    Returns
    -------
    {"too short", "too long", "not Chinese", "broken", "repeats itself"} or None
        None if it can be used.
    """
    visible = "".join(text.split())
    if len(visible) < shortest:
        return "too short"
    if len(visible) > longest:
        return "too long"
    if visible.count(_BROKEN) * 20 > len(visible):
        return "broken"
    if len(_HAN.findall(visible)) < 2:
        return "not Chinese"
    if len(visible) >= _LONG and len(set(visible)) < _FEWEST_DISTINCT * min(len(visible), 200):
        return "repeats itself"
    return None


def _clean_once(text: str) -> str:
    text = _INVISIBLE.sub("", html.unescape(text).replace("\r\n", "\n").replace("\r", "\n"))
    text = _TAG.sub(" ", text)
    text = _QUOTES.sub("", text)
    text = _REPEATED.sub(r"\1", text)
    return _LINES.sub("\n", _SPACE.sub(" ", text)).strip()
