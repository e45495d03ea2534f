"""Contamination check: evaluation texts in training data, as exact or near duplicates or inside longer texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from care_accel.curation.config import Config, LeakCheck
from care_accel.curation.data import write_rows
from care_accel.curation.steps import Progress, Summary, no_progress
from care_accel.curation.texts.containment import ContainmentIndex
from care_accel.curation.texts.duplicates import digest, find_near_references, normalise
from care_accel.errors import CareError
from care_accel.files import read_jsonl, write_json

REPORT = "leak-check.json"
LEAKS = "leaks.jsonl"
# Training texts compared at a time: bounds memory.
_CHUNK = 200_000
CONTAINED = LeakCheck.contained
_KINDS = {"corpus": "document", "queries": "query"}


class Location(NamedTuple):
    """Location of a text."""

    file: Path
    line: int
    field: str
    id: str | None


@dataclass
class Leaks:
    """Evaluation texts found in training data.

    Attributes
    ----------
    rows : list of dict
        One per distinct leaking training text: its first location and number of occurrences, the most similar
        evaluation text or the longest one that it contains, and their similarity or the share of the text that it
        covers.
    exact, near, contained : dict of str to set of int
        By evaluation file, the numbers of its texts that are in the training data; each text is counted once, in the
        first category that applies.
    texts : Counter
        Number of texts by evaluation file.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    exact: dict[str, set[int]] = field(default_factory=dict)
    near: dict[str, set[int]] = field(default_factory=dict)
    contained: dict[str, set[int]] = field(default_factory=dict)
    texts: Counter[str] = field(default_factory=Counter)


def run(config: Config, progress: Progress) -> Summary:
    """Write ``leak-check.json`` and ``leaks.jsonl``; the step fails if there is a leak.

    Raises
    ------
    CareError
        The configuration has no leak-check, or a file cannot be used.
    """
    if (settings := config.leak_check) is None:
        raise CareError("the configuration has no leak-check; add it with train and evaluation")
    report_file, rows_file = config.output_file(REPORT), config.output_file(LEAKS)
    report = check_leaks(
        [Path(file) for file in settings.train],
        [Path(path) for path in settings.evaluation],
        report_file.parent,
        settings.near_duplicates,
        settings.contained,
        progress=progress,
    )
    table: list[Sequence[str]] = [
        ("evaluation file", "texts", "exact", "near duplicate", "inside a longer text")
    ]
    table += [
        (row["file"], *(f"{row[name]:,}" for name in ("texts", "exact", "near", "contained")))
        for row in report["evaluation"]
    ]
    leaks = report["leaks"]
    warnings = (
        [f"{leaks:,} training texts overlap with the evaluation; remove those listed in {rows_file}"]
        if leaks
        else []
    )
    return Summary(
        {
            "leaking training texts": f"{leaks:,}",
            "near duplicates": f"Jaccard similarity {settings.near_duplicates:g} or more",
            "inside a longer text": f"{settings.contained} characters or more"
            if settings.contained
            else "not searched for",
        },
        table,
        [report_file, rows_file],
        warnings,
        failed=leaks > 0,
    )


def check_leaks(
    train: Sequence[Path],
    evaluation: Sequence[Path],
    output: Path,
    threshold: float = 0.8,
    contained: int = CONTAINED,
    *,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Check training files for evaluation texts and write a report.

    Parameters
    ----------
    train : sequence of Path
        Files of JSON lines; every text of a row counts, whatever its field.
    evaluation : sequence of Path
        Files of JSON lines, or folders of them; in folders, files in ``train`` and those named ``train.jsonl`` are
        skipped.
    output : Path
        An existing folder. ``leak-check.json`` has the counts, ``leaks.jsonl`` one row per training text.
    threshold : float
        See `care_accel.curation.texts.duplicates.find_near_duplicates`.
    contained : int
        Minimum length in normalised characters of evaluation texts that are searched for inside longer training
        texts; 0 disables the search. The reverse is not searched for.
    progress : callable, optional

    Returns
    -------
    dict
        ``leaks``, the number of training texts to remove; ``evaluation``, one row of counts per file.

    Raises
    ------
    CareError
        A file is missing or invalid, or there is nothing to compare.
    """
    files = list(_evaluation_files(evaluation, {file.resolve() for file in train}))
    found = find_leaks(train, files, threshold, contained, progress=progress)
    rows = [
        {
            "file": str(file),
            "texts": found.texts[str(file)],
            "exact": len(found.exact.get(str(file), ())),
            "near": len(found.near.get(str(file), ())),
            "contained": len(found.contained.get(str(file), ())),
        }
        for file in files
    ]
    report = {
        "leaks": len(found.rows),
        "near_duplicates": threshold,
        "contained": contained,
        "train": [str(file) for file in train],
        "evaluation": rows,
    }
    write_rows(output / LEAKS, found.rows)
    write_json(output / REPORT, report, private=True)
    return report


def find_leaks(
    train: Sequence[Path],
    evaluation: Sequence[Path],
    threshold: float = 0.8,
    contained: int = CONTAINED,
    *,
    progress: Progress = no_progress,
) -> Leaks:
    """Compare every text of training files with every text of evaluation files; see `check_leaks`."""
    found = Leaks()
    texts, places = [], []
    for place, text in _texts(evaluation):
        if normalise(text):
            texts.append(text)
            places.append(place)
            found.texts[str(place.file)] += 1
    if not texts:
        raise CareError(f"{', '.join(map(str, evaluation)) or 'evaluation'}: contains no text to search for")
    first: dict[bytes, int] = {}
    same: dict[int, list[int]] = {}
    for number, text in enumerate(texts):
        same.setdefault(first.setdefault(digest(text), number), []).append(number)
    distinct = list(same)
    parts = ContainmentIndex([texts[i] for i in distinct], contained) if contained else None
    times: Counter[bytes] = Counter()
    marks: list[tuple[dict[str, Any], bytes]] = []
    for chunk in _chunks(train, times):
        their = [text for _, text in chunk]
        near = find_near_references(their, [texts[i] for i in distinct], threshold, progress=progress)
        # In both directions: a training text may be near to more evaluation texts than its most similar one.
        back = find_near_references([texts[i] for i in distinct], their, threshold, progress=progress)
        inside = _inside(their, parts, progress)
        for (place, text), of, alike, within in zip(
            chunk, near.of.tolist(), near.similarity.tolist(), inside, strict=True
        ):
            for position in within:
                _mark(found.contained, places, same[distinct[position]])
            exact = first.get(digest(text))
            if exact is not None:
                kind, number, alike = "exact", exact, 1.0
            elif of >= 0:
                kind, number = "near", distinct[of]
            elif within:
                kind, (longest, alike) = "contained", next(iter(within.items()))
                number = distinct[longest]
            else:
                continue
            match = places[number]
            row = {
                "train": str(place.file),
                "line": place.line,
                "field": place.field,
                "times": 1,
                "evaluation": str(match.file),
                "evaluation_line": match.line,
                "evaluation_field": match.field,
                "id": match.id,
                "match": kind,
                "similarity": round(alike, 4),
            }
            marks.append((row, digest(text)))
            if exact is not None:
                _mark(found.exact, places, same[exact])
        for position in np.flatnonzero(back.of >= 0).tolist():
            _mark(found.near, places, same[distinct[position]])
    for row, key in marks:
        row["times"] = times[key]
    found.rows = [row for row, _ in marks]
    for file, numbers in found.near.items():
        numbers -= found.exact.get(file, set())
    for file, numbers in found.contained.items():
        numbers -= found.exact.get(file, set()) | found.near.get(file, set())
    return found


def _inside(
    texts: Sequence[str], parts: ContainmentIndex | None, progress: Progress
) -> list[dict[int, float]]:
    """Return the evaluation texts that each text contains."""
    if parts is None:
        return [{} for _ in texts]
    found = []
    with progress("inside longer texts", len(texts)) as done:
        for text in texts:
            found.append(parts.find_in(text))
            done(1)
    return found


def _mark(marked: dict[str, set[int]], places: Sequence[Location], numbers: Iterable[int]) -> None:
    for number in numbers:
        marked.setdefault(str(places[number].file), set()).add(number)


def _chunks(train: Sequence[Path], times: Counter[bytes]) -> Iterator[list[tuple[Location, str]]]:
    """Yield distinct texts in chunks, and count their occurrences."""
    chunk: list[tuple[Location, str]] = []
    for place, text in _texts(train):
        if not normalise(text):
            continue
        key = digest(text)
        times[key] += 1
        if times[key] == 1:
            chunk.append((place, text))
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _texts(files: Sequence[Path]) -> Iterator[tuple[Location, str]]:
    """Yield every text of JSON lines with its location."""
    for file in files:
        stem = file.name.split(".")[0]
        for line, row in read_jsonl(file):
            key = str(row["_id"]) if "_id" in row else None
            if stem in _KINDS and isinstance(row.get("text"), str):
                title = row.get("title")
                text = f"{title} {row['text']}".strip() if isinstance(title, str) else row["text"]
                yield Location(file, line, _KINDS[stem], key), text
                continue
            for name, value in row.items():
                values = value if isinstance(value, list) else [value]
                for text in values if name != "_id" else ():
                    if isinstance(text, str):
                        yield Location(file, line, name, key), text


def _evaluation_files(places: Sequence[Path], train: set[Path]) -> Iterator[Path]:
    for place in places:
        if place.is_file():
            yield place
            continue
        if not place.is_dir():
            raise CareError(f"{place}: no such file or folder; correct leak-check: evaluation")
        inside = [
            file
            for file in sorted(place.rglob("*"))
            if file.name.endswith((".jsonl", ".jsonl.gz")) and file.is_file()
        ]
        kept = [file for file in inside if file.resolve() not in train and file.name.split(".")[0] != "train"]
        if not kept:
            raise CareError(f"{place}: contains no .jsonl file other than training files")
        yield from kept
