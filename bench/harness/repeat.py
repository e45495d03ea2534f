"""Compare the latest two runs of one machine: are ratios repeatable?

``python -m bench.harness.repeat bench/results/<machine>.json [--size default]``

A ratio that differs by more than 15 % in a row that no run has marked as noisy is named, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.harness import record
from care_accel.errors import CareError, exit_code
from care_accel.files import read_json
from care_accel.report.results.ratios import NOISE as AGREE


class Repeated(NamedTuple):
    """A row that two runs have measured.

    Attributes
    ----------
    key : tuple of str
        Suite, group, name.
    change : float
        How much larger the larger ratio is: 0.1 for a tenth.
    noisy : bool
        A run has marked it.
    """

    key: tuple[str, str, str]
    change: float
    noisy: bool


def repeated(first: dict[str, Any], second: dict[str, Any]) -> list[Repeated]:
    """Return every row of both runs that has a ratio to another; our own rows are 1 in any run."""
    rows = [{record.key_of(row): row for row in run["rows"]} for run in (first, second)]
    found = []
    for key in rows[0].keys() & rows[1].keys():
        one, other = (some[key] for some in rows)
        if one["ours"] or None in (one["ratio"], other["ratio"]):
            continue
        low, high = sorted((one["ratio"], other["ratio"]))
        found.append(Repeated(key, high / low - 1, one["noisy"] or other["noisy"]))
    return sorted(found, key=lambda row: (-row.change, row.key))


def report(file: Path, size: str) -> int:
    """Print how the latest two runs agree and return the exit code."""
    runs = [
        run
        for run in read_json(file, "run pytest bench --benchmark-only").get("runs", [])
        if run["size"] == size
    ]
    if len(runs) < 2:
        raise CareError(f"{file}: {len(runs)} runs of size {size}; two are compared: make bench SIZE={size}")
    rows = repeated(*runs[-2:])
    if not rows:
        raise CareError(f"{file}: the latest two runs of size {size} have no row in common")
    print(f"{runs[-2]['id']} ({runs[-2]['revision']}) and {runs[-1]['id']} ({runs[-1]['revision']})")
    apart = [row for row in rows if row.change > AGREE]
    for row in apart:
        print(f"{'noisy, ' if row.noisy else 'UNMARKED, '}{row.change:.0%} apart: {' / '.join(row.key)}")
    unmarked = [row for row in apart if not row.noisy]
    quoted = [row for row in rows if not row.noisy]
    print(
        f"{len(rows)} ratios; {len(rows) - len(quoted)} marked as too noisy to quote; of the other {len(quoted)}, "
        f"{len(quoted) - len(unmarked)} agree within {AGREE:.0%} "
        f"(median {np.median([r.change for r in quoted] or [0.0]):.1%} apart)"
    )
    for suite, count in sorted(Counter(row.key[0] for row in rows if row.noisy).items()):
        print(f"noisy in {suite}: {count}")
    return 1 if unmarked else 0


def main() -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--size", default="default")
    options = parser.parse_args()
    found: list[int] = []
    return exit_code(lambda: found.append(report(options.file, options.size))) or found[0]


if __name__ == "__main__":
    sys.exit(main())
