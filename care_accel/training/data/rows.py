"""Reads training files as rows: a query, a positive document and hard negatives."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from care_accel.errors import CareError
from care_accel.files import read_jsonl, text_field, text_list_field
from care_accel.training.recipe import DataFile, Stage

_SENTENCE = re.compile(r"[^。！？!?；;\n]+[。！？!?；;\n]*")
_CLAUSE = re.compile(r"[^。！？!?；;，,、：:\n]+")
_MIN_CHARACTERS = 6  # shorter sentences ("您好。") are not specific to their text
_MAX_SPAN_CHARACTERS = 24  # about the longest typed question
# Probability that the query sentence is kept in its document, so that lexical overlap is learnt too.
_KEEP_SPAN_PROBABILITY = 0.25

# A query, its positive document, and its hard negatives.
Row = tuple[str, str, list[str]]


def check_rows(stage: Stage, data_dir: Path) -> None:
    """Validate the files of a stage by reading them once.

    Raises
    ------
    CareError
        A row is invalid; file and line are named.
    """
    for source in stage.data:
        file = data_dir / source.file
        whole = stage.method in ("alignment", "language")
        rows: Iterator[Any]
        if whole:
            rows = read_texts(file, source.fields)
        elif source.kind == "graded":
            rows = read_graded(file)
        else:
            rows = _READERS[source.kind](file, source, random.Random(0))
        if sum(1 for _ in rows) == 0:
            raise CareError(f"{file}: no row can be used as {'text' if whole else source.kind}")


def read_rows(file: Path, source: DataFile, rng: random.Random) -> list[Row]:
    """Read the rows of one file, by the kind of its recipe.

    Raises
    ------
    CareError
        The file is missing or a row is invalid (file and line are named), or no row is usable.
    """
    if not file.is_file():
        raise CareError(f"{file}: no such file; check the recipe and --data-dir")
    rows = list(_READERS[source.kind](file, source, rng))
    if not rows:
        raise CareError(f"{file}: no row can be used as {source.kind}")
    return rows


def read_texts(file: Path, fields: Sequence[str] = ()) -> Iterator[str]:
    """Yield all texts of a training file, whatever its kind; with ``fields`` those of these fields alone."""
    for _, row in read_jsonl(file):
        for value in row.values() if not fields else (row[name] for name in fields if name in row):
            if isinstance(value, str):
                yield value
            elif isinstance(value, list):
                yield from (item for item in value if isinstance(item, str))


def split_sentences(text: str) -> list[str]:
    """Split a text after full stops, question and exclamation marks, semicolons and line ends."""
    return [sentence.strip() for sentence in _SENTENCE.findall(text)]


def split_clauses(text: str) -> list[str]:
    """Split a text at all punctuation between clauses, and keep those that are long enough to mean something."""
    clauses = (clause.strip() for clause in _CLAUSE.findall(text))
    return [clause for clause in clauses if len(clause) >= _MIN_CHARACTERS]


def split_text(text: str, rng: random.Random) -> tuple[str, str] | None:
    """Make a pseudo query and its document from one text; None if it is too short.

    For several sentences, the inverse cloze task of Lee et al. (2019): one sentence is the query, the others are the
    document, which sometimes keeps the query. For a single sentence, a random span is the query, as in the cropping of
    Contriever (Izacard et al., 2022).
    """
    sentences = split_sentences(text)
    candidates = [i for i, s in enumerate(sentences) if len(s) >= _MIN_CHARACTERS]
    if len(candidates) >= 2:
        chosen = rng.choice(candidates)
        if rng.random() < _KEEP_SPAN_PROBABILITY:
            return sentences[chosen], text
        return sentences[chosen], "".join(s for i, s in enumerate(sentences) if i != chosen)
    if len(text) < 2 * _MIN_CHARACTERS:
        return None
    length = rng.randint(_MIN_CHARACTERS, min(_MAX_SPAN_CHARACTERS, len(text) // 2))
    start = rng.randint(0, len(text) - length)
    return text[start : start + length], text


def _triplets(file: Path, source: DataFile, rng: random.Random) -> Iterator[Row]:
    for line, row in read_jsonl(file):
        positives = text_list_field(row, "pos", file, line)
        hard = list(dict.fromkeys(text_list_field(row, "neg", file, line))) if "neg" in row else []
        rng.shuffle(hard)
        for name in source.query_fields:
            if name == "query" or row.get(name):
                query = text_field(row, name, file, line)
                yield from ((query, positive, hard) for positive in dict.fromkeys(positives))


def read_graded(file: Path) -> Iterator[tuple[str, str, float]]:
    """Yield the two texts and the score of every row.

    Raises
    ------
    CareError
        A row is invalid; file and line are named.
    """
    for line, row in read_jsonl(file):
        score = row.get("score")
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise CareError(f"{file}, line {line}: 'score' must be a number")
        yield text_field(row, "sentence1", file, line), text_field(row, "sentence2", file, line), float(score)


def _pairs(file: Path, source: DataFile, rng: random.Random) -> Iterator[Row]:
    rows = list(read_graded(file))
    highest = max((score for *_, score in rows), default=0)
    for first, second, score in rows:
        if score == highest:
            # In both directions, so that both encoders see the same texts.
            yield first, second, []
            yield second, first, []


def _texts(file: Path, source: DataFile, rng: random.Random) -> Iterator[Row]:
    for line, row in read_jsonl(file):
        if split := split_text(text_field(row, "text", file, line), rng):
            yield (*split, [])


_READERS: dict[str, Any] = {"triplets": _triplets, "pairs": _pairs, "texts": _texts}
