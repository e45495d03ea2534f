"""Text cleaning: removes markup, invisible characters and noise of web pages and typed text."""

from __future__ import annotations

import html
import re
from collections.abc import Callable

from care_accel.files import replace_lone_surrogates

MIN_CHARACTERS = 4
MAX_CHARACTERS = 4000
_TAGS = "a|b|br|center|div|em|font|h[1-6]|hr|i|img|li|ol|p|script|span|strong|style|sub|sup|table|tbody|td|th|tr|u|ul"
_TAG = re.compile(rf"</?(?:{_TAGS})(?:\s[^<>]*)?/?>", re.IGNORECASE)
# Control characters except tab and line ends, and zero-width and formatting characters, including those inside emoji.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff]"
)
_QUOTES = re.compile("[\"“”'‘’`]{3,}")
_REPEATED = re.compile(r"([。！？!?,，、;；~～*＊=—_…-])\1{2,}")
_SPACE = re.compile(r"[ \t\u00a0\u3000]+")
_LINES = re.compile(r"\s*\n\s*")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]")
_BROKEN = "\ufffd"
# Texts of this length or more are checked for repetition.
_REPETITION_FROM = 20
_MIN_DISTINCT_SHARE = 0.05


def clean_text(text: str, redact: Callable[[str], str] | None = None) -> str:
    """Clean a text.

    Removes HTML tags, invisible and control characters, and runs of three or more quotation marks; decodes HTML
    entities; collapses repeated punctuation and white space. Words, numbers, signs and character width are unchanged.

    Parameters
    ----------
    text : str
    redact : callable, optional
        Redacts personal data; it sees the cleaned text, in which no invisible characters separate digits.

    Returns
    -------
    str
        Cleaning is idempotent if ``redact`` is.
    """
    text, _ = replace_lone_surrogates(text)
    # To a fixed point: an entity may decode to a tag, and removing a tag may form an entity.
    while (simpler := _clean_once(text)) != text:
        text = simpler
    return redact(text) if redact else text


def rejection_reason(
    text: str, *, min_characters: int = MIN_CHARACTERS, max_characters: int = MAX_CHARACTERS
) -> str | None:
    """Return why a cleaned text is rejected as Chinese training text.

    Returns
    -------
    {"too short", "too long", "not Chinese", "broken", "repeats itself"} or None
        None if it is accepted.
    """
    visible = "".join(text.split())
    if len(visible) < min_characters:
        return "too short"
    if len(visible) > max_characters:
        return "too long"
    if visible.count(_BROKEN) * 20 > len(visible):
        return "broken"
    if len(_HAN.findall(visible)) < 2:
        return "not Chinese"
    if len(visible) >= _REPETITION_FROM and len(set(visible)) < _MIN_DISTINCT_SHARE * min(len(visible), 200):
        return "repeats itself"
    return None


def _clean_once(text: str) -> str:
    text = _INVISIBLE.sub("", html.unescape(text).replace("\r\n", "\n").replace("\r", "\n"))
    text = _TAG.sub(" ", text)
    text = _QUOTES.sub("", text)
    text = _REPEATED.sub(r"\1", text)
    return _LINES.sub("\n", _SPACE.sub(" ", text)).strip()
