"""Measure approximate search case by case: ``python bench/approximate.py [--again] [--embeddings FOLDER] [KIND,VECTORS,WIDTH ...]``.

Each case is a run of bench/test_approximate.py of its own, in the full size, and its results are written when it ends; so what was
interrupted goes on with the case that was not measured. By default all cases of the full size, the smallest first, which takes many hours.
What follows ``--`` is given to pytest:

    taskset -c 0 python bench/approximate.py embeddings,100000,256 embeddings,300000,256 -- --bench-blocks 2
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import record
from test_approximate import CASES, OURS

SUITE = Path(__file__).with_name("test_approximate.py")


def measured(results: Path | None) -> set[str]:
    """Return the cases of the full size that a file of results has."""
    runs = record.runs_before(results)[2]
    rows = (row for run in runs if run["size"] == "full" for row in run["rows"])
    return {
        ",".join(str(row["parameters"][name]) for name in ("kind", "vectors", "width"))
        for row in rows
        if row["suite"] == "approximate" and row["name"] == OURS
    }


def main() -> None:
    arguments = sys.argv[1:]
    more = arguments[arguments.index("--") + 1 :] if "--" in arguments else []
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="KIND,VECTORS,WIDTH")
    parser.add_argument("--again", action="store_true", help="also cases that the results have")
    parser.add_argument("--embeddings", type=Path, help="made by bench/embeddings.py")
    parser.add_argument("--bench-results", type=Path)
    options = parser.parse_args(arguments[: len(arguments) - len(more) - ("--" in arguments)])
    for name in ("embeddings", "bench_results"):
        if (value := getattr(options, name)) is not None:
            more += [f"--{name.replace('_', '-')}", str(value)]
    by_size = sorted(CASES["full"], key=lambda case: case[1] * case[2])
    failed = 0
    for case in options.cases or [",".join(map(str, case)) for case in by_size]:
        if not options.again and case in measured(options.bench_results):
            print(f"{case}: measured before", flush=True)
            continue
        print(f"{case}:", flush=True)
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            str(SUITE),
            "--benchmark-only",
            "--bench-size",
            "full",
        ]
        failed |= subprocess.run([*command, "--approximate-case", case, *more], check=False).returncode
    sys.exit(failed)


if __name__ == "__main__":
    main()
