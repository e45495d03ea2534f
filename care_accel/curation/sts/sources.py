"""Selects sentences with a term to rewrite; rule-based checks of rewrites."""

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

# "synonym": the term is replaced by a synonym, same meaning; "changed": by a lookalike, other meaning; "other": the term
# is kept and something else changes the meaning.
Kind = Literal["synonym", "changed", "other"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_MIN_CHARACTERS, _MAX_CHARACTERS = 6, 80


@dataclass(frozen=True)
class Source:
    """A sentence, a term in it, and the synonyms of the term."""

    sentence: str
    term: str
    synonyms: tuple[str, ...]


def read_synonyms(file: Path) -> dict[str, tuple[str, ...]]:
    """Read a tab-separated table of terms and their synonyms; lines that start with # are skipped.

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
            raise CareError(
                f"{file}, line {line}: needs a term, a tab and a synonym that differs from the term"
            )
        table[term] = tuple(dict.fromkeys([*table.get(term, ()), *synonyms]))
    if not table:
        raise CareError(f"{file}: contains no term")
    return table


def find_sources(settings: Sts, redact: Callable[[str], str] | None = None) -> list[Source]:
    """Find sentences with a term of the table, shuffled by the seed.

    The longest of several terms in a sentence is used.
    """
    table = read_synonyms(Path(settings.synonyms))
    file = Path(settings.sentences)
    terms = sorted(table, key=lambda term: (-len(term), term))
    seen: dict[str, Source] = {}
    for line, row in read_jsonl(file):
        text = text_field(row, "text" if "text" in row else "query", file, line)
        for sentence in split_sentences(redact(text) if redact else text):
            term = next((term for term in terms if term in sentence), None)
            if term and _MIN_CHARACTERS <= len(sentence) <= _MAX_CHARACTERS and len(sentence) > len(term):
                seen.setdefault(normalise(sentence), Source(sentence, term, table[term]))
    if not seen:
        raise CareError(f"{settings.sentences}: no sentence contains a term of {settings.synonyms}")
    sources = list(seen.values())
    random.Random(settings.seed).shuffle(sources)
    of_term: Counter[str] = Counter()
    kept = []
    for source in sources:
        of_term[source.term] += 1
        if of_term[source.term] <= settings.a_term:
            kept.append(source)
    return kept


def rewrite_rejection_reason(kind: Kind, source: Source, text: str) -> str | None:
    """Return why a text fails the rule-based checks of a rewrite; None if it passes."""
    if normalise(text) == normalise(source.sentence):
        return "unchanged"
    if "\n" in text.strip() or not len(source.sentence) // 2 <= len(text) <= 2 * len(source.sentence) + 10:
        return "of another length"
    without = text
    for synonym in sorted(source.synonyms, key=len, reverse=True):
        without = without.replace(synonym, "\0")
    if kind == "other":  # in the whole text, as a synonym may be part of the term
        return None if source.term in text else "without its term"
    if source.term in without:
        return "with its term"
    if kind == "synonym" and "\0" not in without:
        return "without a synonym"
    return "with a synonym" if kind == "changed" and "\0" in without else None
