"""Sentences with a term to rewrite, and what shows that a rewrite is none."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from care_accel.curation.config import Sts
from care_accel.curation.texts.duplicates import normalise
from care_accel.errors import CareError
from care_accel.files import read_jsonl, read_lines, text_field
from care_accel.training.data.rows import split_sentences

# The term gives way to a synonym and the meaning stays; it gives way to what looks like one and the meaning changes;
# the term stays and something else changes.
Kind = Literal["synonym", "changed", "other"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_SHORTEST, _LONGEST = 6, 80


@dataclass(frozen=True)
class Source:
    """A sentence, a term in it, and what else the term is called."""

    sentence: str
    term: str
    synonyms: tuple[str, ...]


def read_synonyms(file: Path) -> dict[str, tuple[str, ...]]:
    """Read a table of terms and their synonyms, tabs between; lines that begin with # are skipped.

    Raises
    ------
    CareError
        A line has no synonym, or the table is empty.
    """
    table: dict[str, tuple[str, ...]] = {}
    for line, text in read_lines(file):
        if text.startswith("#"):
            continue
        term, *others = [value.strip() for value in text.rstrip("\r\n").split("\t")]
        synonyms = [value for value in others if value and value != term]
        if not term or not synonyms:
            raise CareError(f"{file}, line {line}: needs a term, a tab and a synonym that is another word")
        table[term] = tuple(dict.fromkeys([*table.get(term, ()), *synonyms]))
    if not table:
        raise CareError(f"{file}: holds no term")
    return table


def find_sources(settings: Sts, redact: Callable[[str], str] | None = None) -> list[Source]:
    """Find sentences with a term of the table, in an order that the seed decides.

    Of several terms in one sentence the longest is taken.
    """
    table = read_synonyms(Path(settings.synonyms))
    file = Path(settings.sentences)
    terms = sorted(table, key=lambda term: (-len(term), term))
    seen: dict[str, Source] = {}
    for line, row in read_jsonl(file):
        text = text_field(row, "text" if "text" in row else "query", file, line)
        for sentence in split_sentences(redact(text) if redact else text):
            term = next((term for term in terms if term in sentence), None)
            if term and _SHORTEST <= len(sentence) <= _LONGEST and len(sentence) > len(term):
                seen.setdefault(normalise(sentence), Source(sentence, term, table[term]))
    if not seen:
        raise CareError(f"{settings.sentences}: no sentence holds a term of {settings.synonyms}")
    sources = list(seen.values())
    random.Random(settings.seed).shuffle(sources)
    of_term: Counter[str] = Counter()
    kept = []
    for source in sources:
        of_term[source.term] += 1
        if of_term[source.term] <= settings.a_term:
            kept.append(source)
    return kept


def why_no_rewrite(kind: Kind, source: Source, text: str) -> str | None:
    """Tell what shows, without asking anybody, that a text is not the rewrite that was asked for; None if nothing."""
    if normalise(text) == normalise(source.sentence):
        return "unchanged"
    if "\n" in text.strip() or not len(source.sentence) // 2 <= len(text) <= 2 * len(source.sentence) + 10:
        return "of another length"
    without = text
    for synonym in sorted(source.synonyms, key=len, reverse=True):
        without = without.replace(synonym, "\0")
    if kind == "other":  # a synonym may be part of the term, so that the whole text is looked at for this one
        return None if source.term in text else "without its term"
    if source.term in without:
        return "with its term"
    if kind == "synonym" and "\0" not in without:
        return "without a synonym"
    return "with a synonym" if kind == "changed" and "\0" in without else None
