"""Builds tables of texts with prompts from training files, one per file."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_accel.encoding import DualEncoder, EncoderSpec
from care_accel.training.data.mining import mine_negatives
from care_accel.training.data.rows import Row, read_graded, read_rows
from care_accel.training.processes import main_process_first
from care_accel.training.recipe import DataFile, Stage

if TYPE_CHECKING:
    from datasets import Dataset


def load_tables(
    model: DualEncoder, stage: Stage, data_dir: Path, work: Path, seed: int
) -> dict[str, Dataset]:
    """Read the files of a stage, each as one table of texts with the model's prompts; see `load_table`.

    Mined negatives are cached below ``work``.
    """
    specs = model.spec("query"), model.spec("document")
    tables = {}
    with main_process_first():
        for position, source in enumerate(stage.data):
            mine = None
            if stage.mining is not None and source.kind == "triplets":
                mine = partial(
                    mine_negatives,
                    model=model,
                    source=source,
                    mining=stage.mining,
                    cache_file=work / f"mined-{position}.jsonl",
                )
            # A file may be listed twice with different options, so the key has its position.
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
        Base folder of ``source.file``.
    query, document : EncoderSpec
        Their prompts are applied by the same function as in inference.
    negatives : int
        Maximum number of columns ``negative_1`` ...; fewer if all rows of the file have fewer.
    seed : int
        Seed of the choice of positives, negatives and sentences.
    mine : callable, optional
        Adds negatives to the rows.

    Returns
    -------
    datasets.Dataset
        Columns ``query``, ``positive``, ``negative_1`` ...; for ``graded`` files ``query``, ``document`` and ``label``,
        the score.

    Raises
    ------
    CareError
        The file is missing or a row is invalid (file and line are named), or no row is usable.
    """
    from datasets import Dataset

    if source.kind == "graded":
        graded = limited(list(read_graded(data_dir / source.file)), source, seed)
        return Dataset.from_dict(
            {
                "query": [query.format(first, source.task) for first, _, _ in graded],
                "document": [document.format(second, source.task) for _, second, _ in graded],
                "label": [score for *_, score in graded],
            }
        )
    rows = limited(read_rows(data_dir / source.file, source, random.Random(seed)), source, seed)
    if mine is not None:
        rows = mine(rows)
    # All rows of a batch need the same columns: missing negatives are filled with positives of other rows, which act
    # as additional in-batch negatives.
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


def limited(rows: list[Any], source: DataFile, seed: int) -> list[Any]:
    """Return at most ``source.limit`` rows in their order, chosen by the seed."""
    if source.limit is None or len(rows) <= source.limit:
        return rows
    return [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), source.limit))]


def _other_document(rows: list[Row], positive: str, rng: random.Random) -> str:
    """Return the positive of another row; the same one if the table has only one document."""
    for _ in range(20):
        if (found := rng.choice(rows)[1]) != positive:
            break
    return found


def _columns(negatives: int) -> list[str]:
    return ["query", "positive", *(f"negative_{i + 1}" for i in range(negatives))]
