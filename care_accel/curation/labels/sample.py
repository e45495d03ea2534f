"""Expert annotation: a blind stratified sample as a CSV to fill in, and its agreement with the vote and the judges."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from care_accel.curation.config import HIGHEST, LOWEST, Config
from care_accel.curation.data import read_data
from care_accel.curation.labels.kappa import cohen_kappa
from care_accel.curation.labels.vote import FILE as VOTES
from care_accel.curation.labels.vote import VotedPair, read_votes
from care_accel.curation.steps import Progress, Summary
from care_accel.curation.texts.redact import redact
from care_accel.errors import CareError
from care_accel.files import read_json, write_json, write_text

FILE, KEY, RESULT = "sample.csv", "sample.json", "sample-agreement.json"
COLUMNS = ("number", "query", "document", "grade", "remark")
# Prefixes that spreadsheets interpret as a formula (CSV injection).
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
STRATA = ("positive", "disputed", "negative")


def run(config: Config, progress: Progress, *, read: Sequence[Path] = (), overwrite: bool = False) -> Summary:
    """Write ``sample.csv``, or compare completed tables with the vote and every judge.

    Strata are of equal size: voted positive; voted negative with a judge in favour; negative for every judge. If one
    has too few pairs, the others have more. Personal data is redacted if it is for the judges.

    Parameters
    ----------
    config : Config
    progress : callable
    read : sequence of Path
        Tables completed by experts; the file name is the name of the expert.
    overwrite : bool
        Replace an existing sample.

    Raises
    ------
    CareError
        There are no votes, the sample exists already, or a table is not of this sample.
    """
    votes = {(vote.query, vote.document): vote for vote in read_votes(config.output_file(VOTES))}
    file, key = config.output_file(FILE), config.output_file(KEY)
    if read:
        return compare(config, list(votes.values()), key, read)
    if file.exists() and not overwrite:
        raise CareError(f"{file} exists and may be filled in already; move it, or give --overwrite")
    drawn, sizes = draw(list(votes.values()), config.sample.size, config.sample.seed, config.vote.cutoff)
    data = read_data(config)
    clean = redact if config.judging.redact else str
    rows = [
        (str(number), clean(data.queries[vote.query]), clean(data.documents[vote.document]), "", "")
        for number, vote in enumerate(drawn, start=1)
    ]
    # With a byte order mark, without which spreadsheets do not detect UTF-8.
    write_text(file, "\ufeff" + as_csv([COLUMNS, *rows]), private=True)
    pairs = {
        str(number): {
            "query": vote.query,
            "document": vote.document,
            "stratum": stratum(vote, config.vote.cutoff),
        }
        for number, vote in enumerate(drawn, start=1)
    }
    write_json(key, {"schema": 1, "strata": sizes, "pairs": pairs}, private=True)
    facts: dict[str, object] = {"pairs": len(drawn)}
    facts["how to fill it in"] = (
        f"grade from {LOWEST} (irrelevant) to {HIGHEST} (fully answers the query); leave blank if unsure"
    )
    facts["then"] = "care-accel curate sample CONFIG --read FILE ..., one file per expert"
    return Summary(facts, files=[file, key])


def stratum(vote: VotedPair, cutoff: float) -> str:
    """Return the stratum of a pair, one of `STRATA`."""
    if vote.positive:
        return "positive"
    return "disputed" if any((grade or 0) >= cutoff for grade in vote.grades.values()) else "negative"


def draw(
    votes: Sequence[VotedPair], size: int, seed: int, cutoff: float
) -> tuple[list[VotedPair], dict[str, int]]:
    """Draw labelled pairs evenly over strata, in random order; also return the sizes of the strata."""
    rng = random.Random(seed)
    strata: dict[str, list[VotedPair]] = {name: [] for name in STRATA}
    for vote in votes:
        if vote.positive is not None:
            strata[stratum(vote, cutoff)].append(vote)
    if not any(strata.values()):
        raise CareError("no pair has a label; run care-accel curate judge and vote")
    sizes = {name: len(members) for name, members in strata.items()}
    for members in strata.values():
        rng.shuffle(members)
    drawn: list[VotedPair] = []
    while len(drawn) < size and any(strata.values()):
        for members in strata.values():
            if members and len(drawn) < size:
                drawn.append(members.pop())
    rng.shuffle(drawn)
    return drawn, sizes


def as_csv(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as CSV, safe from formula injection."""
    stream = io.StringIO()
    csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerows(map(escape, rows))
    return stream.getvalue()


def escape(row: Sequence[str]) -> list[str]:
    """Prefix cells that start like a formula with an apostrophe; leading spaces, which some programs strip, count too."""
    return [
        f"'{cell}" if cell.startswith(_FORMULA) or cell.lstrip().startswith(_FORMULA) else cell
        for cell in row
    ]


def compare(config: Config, votes: Sequence[VotedPair], key_file: Path, tables: Sequence[Path]) -> Summary:
    """Compute experts' agreement with the vote, with every judge and with each other."""
    known = {(vote.query, vote.document): vote for vote in votes}
    key = read_json(key_file, "run care-accel curate sample first")
    names = [table.stem for table in tables]
    if len(set(names)) < len(names):
        raise CareError("two tables have the same file name, which identifies the expert; rename one")
    experts = {table.stem: read_table(table, key["pairs"]) for table in tables}
    cutoff = config.vote.cutoff
    rows: list[Sequence[str]] = [
        ("expert", "with", "pairs", "same label", "weighted to all pairs", "Cohen's kappa")
    ]
    result = []
    for expert, grades in experts.items():
        others: dict[str, dict[str, bool]] = {"the vote": {}}
        for number, pair in key["pairs"].items():
            vote = known.get((pair["query"], pair["document"]))
            if vote is None or vote.positive is None:
                continue
            others["the vote"][number] = vote.positive
            for judge, grade in vote.grades.items():
                if grade is not None:
                    others.setdefault(judge, {})[number] = grade >= cutoff
        for other, given in experts.items():
            if other > expert:
                others[other] = {number: grade >= cutoff for number, grade in given.items()}
        for other, labels in others.items():
            both = sorted(grades.keys() & labels.keys(), key=int)
            if not both:
                continue
            one, two = [grades[n] >= cutoff for n in both], [labels[n] for n in both]
            same = {n: a == b for n, a, b in zip(both, one, two, strict=True)}
            share = sum(same.values()) / len(same)
            weighted = _weighted(same, key)
            kappa = cohen_kappa(one, two)
            cells = (
                f"{100 * share:.1f} %",
                f"{100 * weighted:.1f} %",
                "-" if kappa is None else f"{kappa:.3f}",
            )
            rows.append((expert, other, str(len(both)), *cells))
            result.append(
                {
                    "expert": expert,
                    "with": other,
                    "pairs": len(both),
                    "same": share,
                    "weighted": weighted,
                    "kappa": kappa,
                }
            )
    file = config.output_file(RESULT)
    write_json(file, {"schema": 1, "cutoff": cutoff, "agreement": result}, private=True)
    facts: dict[str, object] = {
        f"graded by {expert}": f"{len(grades)} of {len(key['pairs'])}" for expert, grades in experts.items()
    }
    facts["weighted to all pairs"] = "strata weighted by their size among all pairs, not in the sample"
    return Summary(facts, rows, [file])


def _weighted(same: Mapping[str, bool], key: Mapping[str, object]) -> float:
    """Return the agreement, with strata weighted by their size among all pairs."""
    sizes, pairs = key["strata"], key["pairs"]
    assert isinstance(sizes, dict)
    assert isinstance(pairs, dict)
    total = weights = 0.0
    for name, size in sizes.items():
        found = [agree for number, agree in same.items() if pairs[number]["stratum"] == name]
        if found:
            total += size * sum(found) / len(found)
            weights += size
    return total / weights


def read_table(file: Path, pairs: Mapping[str, object]) -> dict[str, int]:
    """Read a completed table: grades by number, without blank ones.

    Raises
    ------
    CareError
        The file is not such a table, a grade is invalid, or none is filled in; file and line are named.
    """
    try:
        raw = file.read_bytes()
    except OSError as cause:
        raise CareError(f"{file}: cannot be read: {cause.strerror}") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        try:
            text = raw.decode("gb18030")  # the default of Chinese spreadsheets
        except UnicodeDecodeError:
            raise CareError(f"{file}: is neither UTF-8 nor GB 18030; save it as CSV UTF-8") from None
    heading = text.split("\n", 1)[0]
    separator = max(",;\t", key=heading.count)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    if not rows.fieldnames or not {"number", "grade"} <= set(rows.fieldnames):
        raise CareError(f"{file}: has no columns number and grade; keep the header of {FILE}")
    grades: dict[str, int] = {}
    for row in rows:
        number, cell = (row["number"] or "").strip(), (row["grade"] or "").strip()
        if not number and not cell:
            continue
        if number not in pairs:
            raise CareError(f"{file}, line {rows.line_num}: number {number!r} is not in the sample")
        if number in grades:
            raise CareError(
                f"{file}, line {rows.line_num}: duplicate number {number}; remove one of the rows"
            )
        if not cell:
            continue
        try:
            grade = float(cell)
        except ValueError:
            grade = 0.0
        if grade not in range(LOWEST, HIGHEST + 1):
            raise CareError(
                f"{file}, line {rows.line_num}: grade {cell!r} is not an integer from {LOWEST} to {HIGHEST}"
            )
        grades[number] = int(grade)
    if not grades:
        raise CareError(f"{file}: no grade is filled in")
    return grades
