"""Aggregates the judges' grades into one label per pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from care_accel.curation.config import HIGHEST, LOWEST, Config, Vote
from care_accel.curation.data import read_data, write_qrels, write_rows
from care_accel.curation.judges.prompting import load_prompt
from care_accel.curation.judges.store import FILE as STORE
from care_accel.curation.judges.store import open_store
from care_accel.curation.labels.candidates import FILE as CANDIDATES
from care_accel.curation.labels.candidates import read_pools
from care_accel.curation.labels.judging import PLACEHOLDERS, load_tasks
from care_accel.curation.labels.kappa import cohen_kappa
from care_accel.curation.steps import Progress, Summary
from care_accel.errors import CareError
from care_accel.files import read_jsonl, text_field, write_json

FILE, QRELS, LABEL_METRICS = "votes.jsonl", "qrels.tsv", "against-labels.json"
VOTE = "the vote"
_LABEL_COLUMNS = ("precision", "recall", "kappa with labels")


@dataclass(frozen=True)
class VotedPair:
    """A pair with its grades and label.

    Attributes
    ----------
    query, document : str
    grades : dict of str to int or None
        By judge; None without a valid answer.
    positive : bool or None
        None if a grade is missing: the pair has no label.
    """

    query: str
    document: str
    grades: dict[str, int | None]
    positive: bool | None


@dataclass(frozen=True)
class LabelMetrics:
    """A judge's or the vote's agreement with existing labels.

    Attributes
    ----------
    pairs : int
        Labelled pairs with complete grades.
    precision, recall : float or None
        Of positives; None if there are none.
    kappa : float or None
        Cohen's kappa.
    """

    pairs: int
    precision: float | None
    recall: float | None
    kappa: float | None


def decide(grades: Sequence[int | None], vote: Vote) -> bool | None:
    """Return whether a pair is positive; None if a grade is missing or there is none."""
    if not grades or any(grade is None for grade in grades):
        return None
    known = [grade for grade in grades if grade is not None]
    if vote.rule == "mean":
        # Compares sums, not means: integers are exact, a division is rounded.
        return sum(known) >= vote.cutoff * len(known)
    agreeing = sum(grade >= vote.cutoff for grade in known)
    return agreeing == len(known) if vote.rule == "unanimous" else 2 * agreeing > len(known)


def run(config: Config, progress: Progress) -> Summary:
    """Write ``votes.jsonl``, a row per pair, and ``qrels.tsv`` with 1 for positives and 0 for the others.

    Exact duplicates that pooling removed get the label of their candidate in the qrels. If the data has labels,
    ``against-labels.json`` has precision, recall and kappa of each judge and of the vote against them.

    Raises
    ------
    CareError
        There are no candidates or no judgements.
    """
    if not config.judges:
        raise CareError("no judge is configured; list at least one under judges")
    votes = collect_votes(config)
    files = [config.output_file(FILE), config.output_file(QRELS)]
    write_rows(files[0], [vars(vote) for vote in votes])
    write_qrels(files[1], labels_of(votes, duplicates_of(config)))
    decided = [vote for vote in votes if vote.positive is not None]
    facts: dict[str, object] = {
        "rule": f"{config.vote.rule}, cutoff {config.vote.cutoff:g}",
        "pairs": len(votes),
        "positive": sum(vote.positive is True for vote in votes),
        "negative": sum(vote.positive is False for vote in votes),
        "without a label": len(votes) - len(decided),
        "positives per query": f"{_positives_per_query(votes):.2f}",
    }
    against = compare_with_labels(votes, read_data(config).labels, config.vote.cutoff)
    rows: list[Sequence[str]] = [
        ("", *map(str, range(LOWEST, HIGHEST + 1)), "none", "positive", *(_LABEL_COLUMNS if against else ()))
    ]
    for judge in config.judges:
        grades = [vote.grades[judge.name] for vote in votes]
        known = [grade for grade in grades if grade is not None]
        above = sum(grade >= config.vote.cutoff for grade in known) / max(1, len(known))
        counts = [grades.count(grade) for grade in range(LOWEST, HIGHEST + 1)]
        cells = (*map(str, counts), str(grades.count(None)), f"{100 * above:.1f} %")
        rows.append((judge.name, *cells, *_label_metric_cells(against, judge.name)))
    share = sum(vote.positive is True for vote in votes) / max(1, len(decided))
    blank = [""] * (HIGHEST - LOWEST + 2)
    rows.append((VOTE, *blank, f"{100 * share:.1f} %", *_label_metric_cells(against, VOTE)))
    if against:
        facts["labelled pairs with complete grades"] = against[VOTE].pairs
        write_json(
            against_file := config.output_file(LABEL_METRICS),
            {"schema": 1, "cutoff": config.vote.cutoff, "rule": config.vote.rule}
            | {"figures": {name: asdict(one) for name, one in against.items()}},
            private=True,
        )
        files.append(against_file)
    warnings = []
    if len(decided) < len(votes):
        warnings.append(
            f"{len(votes) - len(decided)} pairs lack a grade and have no label; run care-accel curate judge again"
        )
    return Summary(facts, rows, files, warnings)


def collect_votes(config: Config) -> list[VotedPair]:
    """Return every candidate with its grades and label, in the order of the candidates.

    Only grades of the present texts count.
    """
    prompt = load_prompt(config.judging.prompt, PLACEHOLDERS)
    tasks, _ = load_tasks(config)
    with open_store(config.output_file(STORE)) as store:
        known = {judge.name: store.grades(judge.name, prompt.version) for judge in config.judges}
    votes = []
    for task in tasks:
        found = {name: given.get(task.pair, ("", None)) for name, given in known.items()}
        grades = {name: grade if texts == task.hash else None for name, (texts, grade) in found.items()}
        votes.append(
            VotedPair(task.pair.query, task.pair.document, grades, decide([*grades.values()], config.vote))
        )
    return votes


def duplicates_of(config: Config) -> dict[str, dict[str, list[str]]]:
    """Return, by query and candidate, its exact duplicates, which share its label.

    Near duplicates are not included: they may differ in the one word that matters.
    """
    if config.candidates.deduplicate != "exact":
        return {}
    return {pool.query: pool.duplicates for pool in read_pools(config.output_file(CANDIDATES))}


def labels_of(
    votes: Sequence[VotedPair], duplicates: Mapping[str, Mapping[str, Sequence[str]]]
) -> dict[str, dict[str, int]]:
    """Return binary labels by query and document, for labelled pairs and their duplicates."""
    labels: dict[str, dict[str, int]] = {}
    for vote in votes:
        if vote.positive is not None:
            for document in (vote.document, *duplicates.get(vote.query, {}).get(vote.document, ())):
                labels.setdefault(vote.query, {})[document] = int(vote.positive)
    return labels


def compare_with_labels(
    votes: Sequence[VotedPair], labels: Mapping[str, Mapping[str, int]], cutoff: float
) -> dict[str, LabelMetrics]:
    """Return precision, recall and kappa of each judge and of the vote against existing labels.

    A label above 0 is positive. Pairs with a missing grade are excluded for all, so that all metrics are over the same
    pairs; empty if there are none.
    """
    known = [
        vote for vote in votes if vote.positive is not None and vote.document in labels.get(vote.query, {})
    ]
    truth = [labels[vote.query][vote.document] > 0 for vote in known]
    found = {
        name: [(vote.grades[name] or 0) >= cutoff for vote in known]
        for name in (known[0].grades if known else ())
    }
    if known:
        found[VOTE] = [vote.positive is True for vote in known]
    return {name: _label_metrics(one, truth) for name, one in found.items()}


def _label_metrics(found: Sequence[bool], truth: Sequence[bool]) -> LabelMetrics:
    right = sum(one and two for one, two in zip(found, truth, strict=True))
    precision = right / sum(found) if any(found) else None
    recall = right / sum(truth) if any(truth) else None
    return LabelMetrics(len(truth), precision, recall, cohen_kappa(found, truth))


def _label_metric_cells(against: Mapping[str, LabelMetrics], name: str) -> tuple[str, ...]:
    if not against:
        return ()
    one = against[name]
    shares = tuple("-" if share is None else f"{100 * share:.1f} %" for share in (one.precision, one.recall))
    return (*shares, "-" if one.kappa is None else f"{one.kappa:.3f}")


def _positives_per_query(votes: Sequence[VotedPair]) -> float:
    queries = {vote.query for vote in votes}
    return sum(vote.positive is True for vote in votes) / max(1, len(queries))


def read_votes(file: Path) -> list[VotedPair]:
    """Read ``votes.jsonl``.

    Raises
    ------
    CareError
        The file is missing or a row is invalid; file and line are named.
    """
    if not file.is_file():
        raise CareError(f"{file}: no such file; run care-accel curate vote first")
    votes = []
    for line, row in read_jsonl(file):
        grades, positive = row.get("grades"), row.get("positive")
        if not isinstance(grades, dict) or positive not in (True, False, None):
            raise CareError(
                f"{file}, line {line}: has no valid grades or label; run care-accel curate vote again"
            )
        query, document = text_field(row, "query", file, line), text_field(row, "document", file, line)
        votes.append(VotedPair(query, document, grades, positive))
    return votes
