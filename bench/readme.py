"""Write the README's table of speeds from bench/results: ``python bench/readme.py [--check]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))
import record

from care_accel.errors import CareError, exit_code
from care_accel.files import read_json

README = record.FOLDER.parents[1] / "README.md"
BEGIN, END = "<!-- speeds: written by bench/readme.py -->", "<!-- end of speeds -->"
OURS = "care_accel"


class Claim(NamedTuple):
    """A line of the table.

    Attributes
    ----------
    words : str
        What is done.
    suite : str
    where : dict
        Parameters of the group that is meant.
    peers : tuple of str
        How names of what it is held against begin; the fastest of these, and of all exact ones if there are none.
    name : str, optional
        The row instead of the group's own.
    """

    words: str
    suite: str
    where: dict[str, Any]
    peers: tuple[str, ...] = ()
    name: str | None = None


CLAIMS: tuple[Claim, ...] = ()


def table(results: list[dict[str, Any]]) -> str:
    """Return a table for every machine that has measured one of the claims.

    Parameters
    ----------
    results : list of dict
        What the files of bench/results hold.
    """
    parts = []
    for found in results:
        lines = [line for claim in CLAIMS if (line := _line(claim, found["runs"]))]
        if lines:
            parts.append(
                f"{_machine(found)}\n\n| | p50 | p99 | beside it | times as fast | of the limit |\n|---|---|---|---|---|---|\n"
            )
            parts[-1] += "\n".join(lines)
    return "\n\n".join(parts)


def _machine(found: dict[str, Any]) -> str:
    here, last = found["machine"], found["runs"][-1]
    what = here["gpu"] or f"{here['cores']} cores of an {here['processor']} ({here['instruction_sets'][0]})"
    return f"{what}, measured {last['started'][:10]}, milliseconds:"


def _line(claim: Claim, runs: list[dict[str, Any]]) -> str | None:
    for run in reversed(runs):
        rows = [row for row in run["rows"] if row["suite"] == claim.suite and _is_meant(row, claim.where)]
        ours = next((row for row in rows if (row["name"] == claim.name if claim.name else row["ours"])), None)
        if ours is None:
            continue
        peers = [
            row
            for row in rows
            if row is not ours
            and row["group"] == ours["group"]
            and row["ratio"] is not None
            and (
                row["name"].startswith(claim.peers)
                if claim.peers
                else row["exact"] and OURS not in row["name"]
            )
        ]
        best = min(peers, key=lambda row: row["ratio"], default=None)
        cells = [claim.words, _number(ours["p50_ms"]), _number(ours["p99_ms"])]
        if best is None:
            cells += ["", ""]
        else:
            noisy = best["noisy"] or ours["ratio"] is None
            ratio = "too noisy" if noisy else f"{best['ratio'] / ours['ratio']:.1f}"
            cells += [f"{best['name']} {_number(best['p50_ms'])}", ratio]
        cells.append(f"{ours['limit']['share']:.0%} of the {ours['limit']['name']}" if ours["limit"] else "")
        return f"| {' | '.join(cells)} |"
    return None


def _is_meant(row: dict[str, Any], where: dict[str, Any]) -> bool:
    return all(row["parameters"].get(name) == value for name, value in where.items())


def _number(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "-"
    return f"{milliseconds:.{max(0, 2 - len(str(int(milliseconds))) + (milliseconds < 1))}f}"


def written(text: str, results: list[dict[str, Any]], file: Path = README) -> str:
    """Return the README's text with the table in its place."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise CareError(f"{file}: one line {BEGIN!r} and one {END!r} say where the table goes")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{table(results)}\n{END}{after}"


def results_of(folder: Path = record.FOLDER) -> list[dict[str, Any]]:
    """Read every machine's file."""
    found = [read_json(file, "run pytest bench --benchmark-only") for file in sorted(folder.glob("*.json"))]
    return [one for one in found if "runs" in one]


def run(options: argparse.Namespace) -> None:
    """Write the table, or say that it is not what the results give."""
    text = README.read_text(encoding="utf-8")
    new = written(text, results_of())
    if options.check and new != text:
        raise CareError(
            f"{README.name}: its table is not what bench/results gives; python bench/readme.py writes it"
        )
    if not options.check:
        README.write_text(new, encoding="utf-8")


def main() -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    options = parser.parse_args()
    return exit_code(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
