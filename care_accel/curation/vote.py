"""Several judges' grades to one label a pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from care_accel.curation.candidates import FILE as CANDIDATES
from care_accel.curation.candidates import read_pools
from care_accel.curation.config import HIGHEST, LOWEST, Config, Vote
from care_accel.curation.data import write_qrels, write_rows
from care_accel.curation.judging import PLACES, load_tasks
from care_accel.curation.prompting import load_prompt
from care_accel.curation.steps import Progress, Summary
from care_accel.curation.store import FILE as STORE
from care_accel.curation.store import open_store
from care_accel.errors import CareError
from care_accel.files import read_jsonl, text_field

FILE, QRELS = "votes.jsonl", "qrels.tsv"


@dataclass(frozen=True)
class Voted:
    """A pair with its grades.

    Attributes
    ----------
    query, document : str
    grades : dict of str to int or None
        By judge; None where there is no answer that could be read.
    positive : bool or None
        None where a grade is missing: such a pair has no label.
    """

    query: str
    document: str
    grades: dict[str, int | None]
    positive: bool | None


def decide(grades: Sequence[int | None], vote: Vote) -> bool | None:
    """Tell whether a pair is positive; None if a grade is missing or there is none."""
    if not grades or any(grade is None for grade in grades):
        return None
    known = [grade for grade in grades if grade is not None]
    if vote.rule == "mean":
        # Sums of whole numbers are exact: 4 + 4 + 4 has a mean of 4, whatever a division rounds to.
        return sum(known) >= vote.cutoff * len(known)
    agreeing = sum(grade >= vote.cutoff for grade in known)
    return agreeing == len(known) if vote.rule == "unanimous" else 2 * agreeing > len(known)


def run(config: Config, progress: Progress) -> Summary:
    """Write ``votes.jsonl``, a row a pair, and ``qrels.tsv`` with 1 for positives and 0 for the others.

    Documents that were left out as exact duplicates of a candidate get its label in the labels' file.

    Raises
    ------
    CareError
        There are no candidates or no judgements.
    """
    if not config.judges:
        raise CareError("the configuration names no judge; list at least one under judges")
    votes = collect(config)
    file, labels_file = config.output_file(FILE), config.output_file(QRELS)
    write_rows(file, [vars(vote) for vote in votes])
    write_qrels(labels_file, labels_of(votes, duplicates_of(config)))
    decided = [vote for vote in votes if vote.positive is not None]
    facts: dict[str, object] = {
        "rule": f"{config.vote.rule}, cut-off {config.vote.cutoff:g}",
        "pairs": len(votes),
        "positive": sum(vote.positive is True for vote in votes),
        "negative": sum(vote.positive is False for vote in votes),
        "without a label": len(votes) - len(decided),
        "positives a query": f"{_positives_a_query(votes):.2f}",
    }
    rows: list[Sequence[str]] = [
        ("judge", *map(str, range(LOWEST, HIGHEST + 1)), "none", "at or above the cut-off")
    ]
    for judge in config.judges:
        grades = [vote.grades[judge.name] for vote in votes]
        known = [grade for grade in grades if grade is not None]
        above = sum(grade >= config.vote.cutoff for grade in known) / max(1, len(known))
        counts = [grades.count(grade) for grade in range(LOWEST, HIGHEST + 1)]
        rows.append((judge.name, *map(str, counts), str(grades.count(None)), f"{100 * above:.1f} %"))
    warnings = []
    if len(decided) < len(votes):
        warnings.append(
            f"{len(votes) - len(decided)} pairs lack a grade and have no label; run care-accel curate judge"
        )
    return Summary(facts, rows, [file, labels_file], warnings)


def collect(config: Config) -> list[Voted]:
    """Return every candidate with its grades and label, in the order of the candidates.

    Grades count that were given to the texts as they are now.
    """
    prompt = load_prompt(config.judging.prompt, PLACES)
    tasks, _ = load_tasks(config)
    with open_store(config.output_file(STORE)) as store:
        known = {judge.name: store.grades(judge.name, prompt.version) for judge in config.judges}
    votes = []
    for task in tasks:
        found = {name: given.get(task.pair, ("", None)) for name, given in known.items()}
        grades = {name: grade if texts == task.hash else None for name, (texts, grade) in found.items()}
        votes.append(
            Voted(task.pair.query, task.pair.document, grades, decide([*grades.values()], config.vote))
        )
    return votes


def duplicates_of(config: Config) -> dict[str, dict[str, list[str]]]:
    """Return, by query and candidate, documents with the candidate's text: what holds for one holds for all.

    Near duplicates differ in words, perhaps in the one that matters: they are not among these.
    """
    if config.candidates.deduplicate != "exact":
        return {}
    return {pool.query: pool.duplicates for pool in read_pools(config.output_file(CANDIDATES))}


def labels_of(
    votes: Sequence[Voted], duplicates: Mapping[str, Mapping[str, Sequence[str]]]
) -> dict[str, dict[str, int]]:
    """Return 1 or 0 by query and document, of pairs that have a label and of their duplicates."""
    labels: dict[str, dict[str, int]] = {}
    for vote in votes:
        if vote.positive is not None:
            for document in (vote.document, *duplicates.get(vote.query, {}).get(vote.document, ())):
                labels.setdefault(vote.query, {})[document] = int(vote.positive)
    return labels


def _positives_a_query(votes: Sequence[Voted]) -> float:
    queries = {vote.query for vote in votes}
    return sum(vote.positive is True for vote in votes) / max(1, len(queries))


def read_votes(file: Path) -> list[Voted]:
    """Read what `run` wrote.

    Raises
    ------
    CareError
        The file is missing or a row is broken; file and line are named.
    """
    if not file.is_file():
        raise CareError(f"{file}: no such file; run care-accel curate vote first")
    votes = []
    for line, row in read_jsonl(file):
        grades, positive = row.get("grades"), row.get("positive")
        if not isinstance(grades, dict) or positive not in (True, False, None):
            raise CareError(f"{file}, line {line}: holds no grades and no label")
        query, document = text_field(row, "query", file, line), text_field(row, "document", file, line)
        votes.append(Voted(query, document, grades, positive))
    return votes
