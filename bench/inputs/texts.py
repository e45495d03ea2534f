"""Real texts for measurements: from the data sets in CARE_DATA, or from the embedded demo."""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

from care_accel.eval.command import DEMO
from care_accel.files import find_plain_or_gzip, read_jsonl


def questions() -> list[str]:
    """Return real questions and titles, each once, in an order that is always the same; the demo's without data."""
    data = data_folder()
    files = [(file, ("text",)) for file in _files(data / "retrieval", "queries")]
    files += [(file, ("text",)) for file in _files(data / "retrieval", "corpus") if "cmedir" in file.parts]
    files += [
        (file, ("sentence1", "sentence2"))
        for split in ("train", "dev", "test")
        for file in _files(data / "sts", split)
    ]
    once = dict.fromkeys(
        row[name].strip() for file, names in files for _, row in read_jsonl(file) for name in names
    )
    texts = [text for text in once if text]
    random.Random(0).shuffle(texts)
    return texts


def answers(name: str | None = None) -> list[str]:
    """Return real documents longer than titles: doctors' answers, of one set if it is there; the demo's without data."""
    files = [file for file in _files(data_folder() / "retrieval", "corpus") if "cmedir" not in file.parts]
    files = [file for file in files if name in file.parts] or files
    return [f"{row.get('title', '')}{row['text']}" for file in files for _, row in read_jsonl(file)]


def data_folder() -> Path:
    """Return the folder of real data sets, or the embedded demo's."""
    data = Path(os.environ.get("CARE_DATA", ""))
    return data if (data / "retrieval").is_dir() else DEMO


def find(folder: Path, name: str) -> Path | None:
    """Return a data set's file, plain or gzip."""
    return find_plain_or_gzip(folder / f"{name}.jsonl")


def _files(folder: Path, name: str) -> list[Path]:
    some = sorted(folder.iterdir()) if folder.is_dir() else []
    return [file for one in some if (file := find(one, name))]


def titles(most: int) -> list[str]:
    """Return the documents of the index: titles of cmedir, or the demo's documents."""
    folder = data_folder() / "retrieval"
    file = find(folder / "cmedir", "corpus") or find(DEMO / "retrieval" / "care-demo", "corpus")
    rows = (row for _, row in read_jsonl(file))
    return [f"{row.get('title', '')}{row['text']}" for row in itertools.islice(rows, most)]
