"""Measure approximate search case by case: ``python -m bench.approximate.case_by_case [--again] [--embeddings FOLDER] [KIND,VECTORS,WIDTH ...]``.

Each case is a run of bench/approximate/test_approximate.py of its own, in the full size, and its results are written when it ends; so what was
interrupted goes on with the case that was not measured. By default all cases of the full size, the smallest first, which takes many hours.
What follows ``--`` is given to pytest:

    taskset -c 0 python -m bench.approximate.case_by_case embeddings,100000,256 embeddings,300000,256 -- --bench-blocks 2

``--table`` prints what the results have, as docs/search.md shows it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bench.approximate.test_approximate import CASES, CHOSEN, OURS, SAME
from bench.harness import record
from bench.scan.test_scan import KINDS
from care_accel.files import read_json

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


def table(runs: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table of the newest rows of all cases of the full size, one line a case and recall that was asked for."""
    cases: dict[str, dict[str, Any]] = {}
    for run in runs:
        if run["size"] == "full":
            for row in run["rows"]:
                if row["suite"] == "approximate":
                    cases.setdefault(row["group"], {})[row["name"]] = row
    yield "| vectors | asked | exact | chosen: | recall | MB | built in | faiss by hand, same recall | times as fast | other peers at the recall asked |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for rows in cases.values():
        exact = rows.get(OURS)
        for name, row in rows.items():
            if exact is None or not name.startswith(CHOSEN):
                continue
            recall = name.rpartition(" ")[2]
            what = row["parameters"]
            best = rows.get(f"{SAME} {recall}")
            others = [
                f"{other.partition(',')[0]} {_us(one)} ({one['recall']:.4f})"
                for other, one in rows.items()
                if other.endswith(f", recall {recall}")
            ]
            yield " | ".join(
                [
                    f"| {what['kind']}, {what['vectors']:,} x {what['width']}",
                    recall,
                    _us(exact),
                    f"{_us(row)}, {row['note'].partition(';')[0]}",
                    f"{row['recall']:.4f}",
                    f"{row['bytes'] / 1e6:,.0f} ({exact['bytes'] / 1e6:,.0f} exact)",
                    f"{row['build_s']:.0f} s",
                    "-" if best is None else f"{_us(best)} ({best['recall']:.4f}), {best['note']}",
                    "-" if best is None else f"{best['p50_ms'] / row['p50_ms']:.2f}",
                    "; ".join(others) + " |",
                ]
            )


def _us(row: dict[str, Any]) -> str:
    return f"{1e3 * row['p50_ms']:,.0f} us{' (noisy)' if row['noisy'] else ''}"


def _case(text: str) -> str:
    """Return a case that was named on the command line, if it is one."""
    kind, *sizes = text.split(",")
    if (
        kind not in (*KINDS, "embeddings")
        or len(sizes) != 2
        or not all(one.isdecimal() and int(one) for one in sizes)
    ):
        kinds = ", ".join((*KINDS, "embeddings"))
        raise argparse.ArgumentTypeError(
            f"{text!r} is no case; write KIND,VECTORS,WIDTH, such as embeddings,100000,256, with a kind of {kinds}"
        )
    return text


def main() -> None:
    arguments = sys.argv[1:]
    more = arguments[arguments.index("--") + 1 :] if "--" in arguments else []
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="KIND,VECTORS,WIDTH", type=_case)
    parser.add_argument("--table", action="store_true", help="print what the results have")
    parser.add_argument("--again", action="store_true", help="also cases that the results have")
    parser.add_argument("--embeddings", type=Path, help="made by bench/inputs/embeddings.py")
    parser.add_argument("--bench-results", type=Path)
    options = parser.parse_args(arguments[: len(arguments) - len(more) - ("--" in arguments)])
    if options.table:
        file = options.bench_results  # of this machine by default, or of another
        runs = read_json(file, "name another")["runs"] if file else record.runs_before()[2]
        print("\n".join(table(runs)))
        return
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
