"""Training files to tables of texts, one table a file, prompts put in."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_accel.encoding import DualEncoder, EncoderSpec
from care_accel.errors import CareError
from care_accel.files import read_jsonl, text_field, text_list_field
from care_accel.training.mining import mine_negatives
from care_accel.training.processes import one_after_the_first
from care_accel.training.recipe import DataFile, Stage

if TYPE_CHECKING:
    from datasets import Dataset

_SENTENCE = re.compile(r"[^。！？!?；;\n]+[。！？!?；;\n]*")
_MIN_CHARACTERS = 6  # shorter sentences ("您好。") say nothing about the rest of their text
_LONGEST_SPAN = 24  # characters: about the longest question that is typed
# How often a sentence stays in its document: shared words count too, not topics alone.
_KEPT = 0.25

# A row is a query, its positive document, and up to `negatives` documents that do not answer it.
Row = tuple[str, str, list[str]]


def check_rows(stage: Stage, data_dir: Path) -> None:
    """Read the files of a stage once from end to end.

    Raises
    ------
    CareError
        A row is broken; file and line are named.
    """
    for source in stage.data:
        file = data_dir / source.file
        whole = stage.method in ("alignment", "language")
        rows = read_texts(file) if whole else _READERS[source.kind](file, source, random.Random(0))
        if sum(1 for _ in rows) == 0:
            raise CareError(f"{file}: no row can be used as {'text' if whole else source.kind}")


def load_tables(
    model: DualEncoder, stage: Stage, data_dir: Path, work: Path, seed: int
) -> dict[str, Dataset]:
    """Read the files of a stage, each as one table of texts with the model's prompts; see `load_table`.

    Negatives that are mined are kept below ``work``.
    """
    specs = model.spec("query"), model.spec("document")
    tables = {}
    with one_after_the_first():
        for position, source in enumerate(stage.data):
            mine = None
            if stage.mining is not None and source.kind == "triplets":
                kept = work / f"mined-{position}.jsonl"
                mine = partial(mine_negatives, model=model, source=source, mining=stage.mining, kept=kept)
            # A file may be read in two ways: its place is part of its name.
            name = f"{position} {source.file}"
            tables[name] = load_table(source, data_dir, *specs, stage.negatives, seed, mine=mine)
    return tables


def load_table(
    source: DataFile,
    data_dir: Path,
    query: EncoderSpec,
    document: EncoderSpec,
    negatives: int,
    seed: int,
    *,
    mine: Callable[[list[Row]], list[Row]] | None = None,
) -> Dataset:
    """Read one training file as a table of formatted texts.

    Parameters
    ----------
    source : DataFile
    data_dir : Path
        What ``source.file`` is relative to.
    query, document : EncoderSpec
        Their prompts are put in by the same function that inference uses.
    negatives : int
        Columns ``negative_1`` ... at most; a file whose rows have fewer gets fewer columns, and files
        without negatives none.
    seed : int
        For the choice of positives, negatives and sentences.
    mine : callable, optional
        Adds negatives to the rows.

    Returns
    -------
    datasets.Dataset
        Columns ``query``, ``positive``, ``negative_1`` ...

    Raises
    ------
    CareError
        The file is missing or a row is broken (file and line are named), or no row is usable.
    """
    from datasets import Dataset

    file = data_dir / source.file
    if not file.is_file():
        raise CareError(f"{file}: no such file; check the recipe and --data-dir")
    rows = list(_READERS[source.kind](file, source, random.Random(seed)))
    if not rows:
        raise CareError(f"{file}: no row can be used as {source.kind}")
    if mine is not None:
        rows = mine(rows)
    # A trainer's batch needs the same columns in every row: rows without a negative borrow the positive
    # of another row, which is one more in-batch negative and nothing else.
    columns = min(negatives, max(len(row[2]) for row in rows))
    filler = random.Random(seed)
    table: dict[str, list[str]] = {name: [] for name in _columns(columns)}
    for text, positive, hard in rows:
        chosen = hard[:columns]
        while len(chosen) < columns:
            chosen.append(_other_document(rows, positive, filler))
        table["query"].append(query.format(text, source.task))
        for name, value in zip(_columns(columns)[1:], [positive, *chosen], strict=True):
            table[name].append(document.format(value, source.task))
    return Dataset.from_dict(table)


def read_texts(file: Path) -> Iterator[str]:
    """Yield every text of a training file, whatever its kind: what a tokenizer is trained on."""
    for _, row in read_jsonl(file):
        for value in row.values():
            if isinstance(value, str):
                yield value
            elif isinstance(value, list):
                yield from (item for item in value if isinstance(item, str))


def split_sentences(text: str) -> list[str]:
    """Cut a text behind its full stops, question and exclamation marks, semicolons and line ends."""
    return [sentence.strip() for sentence in _SENTENCE.findall(text)]


def split_text(text: str, rng: random.Random) -> tuple[str, str] | None:
    """Make a query and its document from one text; None if it is too short.

    Of several sentences one asks and the others answer, the inverse cloze task of Lee et al. (2019), which
    also leaves some sentences in their documents. A single sentence is asked for by a span of it, the
    cropping of Contriever (Izacard et al., 2022).
    """
    sentences = split_sentences(text)
    candidates = [i for i, s in enumerate(sentences) if len(s) >= _MIN_CHARACTERS]
    if len(candidates) >= 2:
        chosen = rng.choice(candidates)
        if rng.random() < _KEPT:
            return sentences[chosen], text
        return sentences[chosen], "".join(s for i, s in enumerate(sentences) if i != chosen)
    if len(text) < 2 * _MIN_CHARACTERS:
        return None
    length = rng.randint(_MIN_CHARACTERS, min(_LONGEST_SPAN, len(text) // 2))
    start = rng.randint(0, len(text) - length)
    return text[start : start + length], text


def _other_document(rows: list[Row], positive: str, rng: random.Random) -> str:
    """Return the positive of another row; a table that has one document only gives that one."""
    for _ in range(20):
        if (found := rng.choice(rows)[1]) != positive:
            break
    return found


def _columns(negatives: int) -> list[str]:
    return ["query", "positive", *(f"negative_{i + 1}" for i in range(negatives))]


def _triplets(file: Path, source: DataFile, rng: random.Random) -> Iterator[Row]:
    for line, row in read_jsonl(file):
        positives = text_list_field(row, "pos", file, line)
        hard = list(dict.fromkeys(text_list_field(row, "neg", file, line))) if "neg" in row else []
        rng.shuffle(hard)
        for name in source.query_fields:
            if name == "query" or row.get(name):
                query = text_field(row, name, file, line)
                yield from ((query, positive, hard) for positive in dict.fromkeys(positives))


def _pairs(file: Path, source: DataFile, rng: random.Random) -> Iterator[Row]:
    rows = []
    for line, row in read_jsonl(file):
        score = row.get("score")
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise CareError(f"{file}, line {line}: 'score' must be a number")
        texts = text_field(row, "sentence1", file, line), text_field(row, "sentence2", file, line)
        rows.append((*texts, score))
    highest = max((score for *_, score in rows), default=0)
    for first, second, score in rows:
        if score == highest:
            # Either sentence may ask: both directions teach both encoders the same words.
            yield first, second, []
            yield second, first, []


def _texts(file: Path, source: DataFile, rng: random.Random) -> Iterator[Row]:
    for line, row in read_jsonl(file):
        if split := split_text(text_field(row, "text", file, line), rng):
            yield (*split, [])


_READERS: dict[str, Any] = {"triplets": _triplets, "pairs": _pairs, "texts": _texts}
