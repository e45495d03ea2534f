"""False negatives of a data set: documents that the vote finds relevant and its qrels do not have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median

from care_accel.curation.config import Config
from care_accel.curation.data import qrels_files, read_data, write_qrels
from care_accel.curation.labels.vote import FILE as VOTES
from care_accel.curation.labels.vote import duplicates_of, labels_of, read_votes
from care_accel.curation.steps import Progress, Summary
from care_accel.errors import CareError
from care_accel.files import write_json

FILE = "false-negatives.json"


def run(config: Config, progress: Progress) -> Summary:
    """Count unlabelled positives by query, and write qrels extended by them.

    Existing labels do not change: a document labelled irrelevant and voted positive is only counted. The extended
    qrels are a split of their own, ``<split>.repaired``, next to the original.

    Raises
    ------
    CareError
        There are no votes or no labels, or the extended qrels would overwrite another file.
    """
    old = qrels_files(config)[0]
    labels = read_data(config).labels
    votes = read_votes(config.output_file(VOTES))
    voted = labels_of(votes, duplicates_of(config))
    added = unlabelled_positives(labels, voted)
    counts = {query: len(added.get(query, ())) for query in labels}
    target = config.false_negatives.file
    file = old.with_name(f"{config.split}.repaired.tsv") if target is None else Path(target)
    repaired = {
        query: {**labels[query], **dict.fromkeys(added.get(query, ()), config.false_negatives.grade)}
        for query in labels
    }
    write_new_qrels(old, file, repaired)
    disputed = sum(
        voted.get(query, {}).get(document) == 1 and grade <= 0
        for query, row in labels.items()
        for document, grade in row.items()
    )
    missed = sum(
        voted.get(query, {}).get(document) == 0 and grade > 0
        for query, row in labels.items()
        for document, grade in row.items()
    )
    before = sum(grade > 0 for row in labels.values() for grade in row.values())
    total = sum(counts.values())
    values = list(counts.values())
    report = config.output_file(FILE)
    write_json(
        report,
        {
            "schema": 1,
            "split": config.split,
            "queries": len(counts),
            "positives before": before,
            "unlabelled positives": total,
            "a query": {"mean": fmean(values), "median": median(values), "most": max(values)},
            "queries by count": {str(count): n for count, n in sorted(Counter(values).items())},
            "labelled irrelevant, voted positive": disputed,
            "labelled positive, voted negative": missed,
            "counts": counts,
        },
        private=True,
    )
    facts: dict[str, object] = {
        "queries": len(counts),
        "labelled positives": before,
        "unlabelled positives": total,
        "per query": f"mean {fmean(values):.2f}, median {median(values):g}, maximum {max(values)}",
        "labelled irrelevant, voted positive": f"{disputed} (unchanged)",
        "labelled positive, voted negative": f"{missed} (unchanged)",
    }
    facts["evaluate with"] = f"--split {file.name.removesuffix('.tsv')}"
    return Summary(facts, files=[report, file])


def unlabelled_positives(
    labels: Mapping[str, Mapping[str, int]], voted: Mapping[str, Mapping[str, int]]
) -> dict[str, Sequence[str]]:
    """Return, by labelled query, documents that are voted positive and have no label."""
    return {
        query: [
            document for document, label in voted.get(query, {}).items() if label == 1 and document not in row
        ]
        for query, row in labels.items()
    }


def write_new_qrels(old: Path, file: Path, labels: Mapping[str, Mapping[str, int]]) -> None:
    """Write qrels to a new file.

    Raises
    ------
    CareError
        It is the original file, or exists with other contents.
    """
    if file.resolve() == old.resolve():
        raise CareError(
            f"{file}: is the original file, which is never overwritten; set another under false-negatives: file"
        )
    if not file.parent.is_dir():
        raise CareError(f"{file}: {file.parent} is not a folder; create it first")
    if file.exists():
        before = file.read_bytes()
        probe = file.with_name(f".{file.name}.probe")
        try:
            write_qrels(probe, labels)
            if probe.read_bytes() == before:
                return
        finally:
            probe.unlink(missing_ok=True)
        raise CareError(
            f"{file}: exists with other labels; move it, or set another under false-negatives: file"
        )
    try:
        write_qrels(file, labels)
    except CareError as mistake:
        raise CareError(f"{mistake}; set another under false-negatives: file") from None
    file.chmod(old.stat().st_mode & 0o777)
