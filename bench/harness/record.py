"""Records measurements: rows of a run, runs of one file per machine, appended and never edited."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import machine
from care_accel.errors import CareError
from care_accel.files import read_json, write_json
from care_accel.report.results.ratios import NOISE, is_noisy

SCHEMA = 1
FOLDER = Path(__file__).resolve().parents[1] / "results"
# Fewer rounds say nothing of a percentile.
ROUNDS_FOR_P95, ROUNDS_FOR_P99 = 20, 100


def rows_of(benchmarks: Iterable[Any], failed: Collection[str] = ()) -> list[dict[str, Any]]:
    """Return a row for everything that was measured, its blocks joined.

    Parameters
    ----------
    benchmarks : iterable of pytest_benchmark.stats.Metadata
        As a session holds them; those that `Measure` did not make are left out.
    failed : collection of str
        Node ids of tests that failed. What gave wrong answers in one block has no row: no time of it counts.
    """
    blocks: dict[tuple[str, str, str], list[Any]] = defaultdict(list)
    wrong = set()
    for bench in benchmarks:
        if bench.stats.rounds and "suite" in bench.extra_info:
            info = bench.extra_info
            key = info["suite"], bench.group, info["name"]
            blocks[key].append(bench)
            if bench.fullname in failed:
                wrong.add(key)
    for key in wrong:
        del blocks[key]
    ours = {key[:2]: some for key, some in blocks.items() if some[0].extra_info["ours"]}
    return [_row(*key, some, ours.get(key[:2], [])) for key, some in blocks.items()]


def _row(suite: str, group: str, name: str, blocks: list[Any], ours: list[Any]) -> dict[str, Any]:
    infos = [bench.extra_info for bench in blocks]
    first = infos[0]
    times = np.concatenate([_milliseconds(bench) for bench in blocks])
    reference = {bench.extra_info["block"]: _compared(bench) for bench in ours}
    ratios = [
        _compared(bench) / reference[bench.extra_info["block"]]
        for bench in blocks
        if bench.extra_info["block"] in reference
    ]
    # A round of several calls in a row has no percentile of one.
    tail = len(times) if first["calls"] == 1 else 0
    row = {
        "suite": suite,
        "group": group,
        "name": name,
        "ours": first["ours"],
        "exact": first["extra"].get("exact", True),
        "parameters": first["parameters"],
        "rounds": len(times),
        "p50_ms": _significant(np.median(times)),
        "p95_ms": _significant(np.percentile(times, 95)) if tail >= ROUNDS_FOR_P95 else None,
        "p99_ms": _significant(np.percentile(times, 99)) if tail >= ROUNDS_FOR_P99 else None,
        "ratio": _significant(np.median(ratios)) if ratios else None,
        "ratios": list(map(_significant, ratios)),
        # Our own row, whose ratio is 1, is noisy by its times.
        "noisy": is_noisy([_compared(bench) for bench in blocks] if first["ours"] else ratios),
        "limit": None,
        "in_cache": first["in_cache"],
        "note": "",
    }
    shares = [
        info["limit"]["seconds"] / info["calls"] / (1e-3 * np.median(_milliseconds(bench)))
        for bench, info in zip(blocks, infos, strict=True)
        if "limit" in info
    ]
    if shares:
        # If two limits are close, blocks may have different ones.
        names = dict.fromkeys(info["limit"]["name"] for info in infos if "limit" in info)
        row["limit"] = {"name": " or ".join(names), "share": _significant(np.median(shares))}
    return row | dict(_joined([info["extra"] for info in infos]))


def key_of(row: dict[str, Any]) -> tuple[str, str, str]:
    """Return the key of a row within its run."""
    return row["suite"], row["group"], row["name"]


def _compared(bench: Any) -> float:
    """Return the seconds that a block's ratio compares."""
    return float(bench.extra_info.get("compared_s") or bench.stats.median)


def _milliseconds(bench: Any) -> np.ndarray:
    """Return the times that a row's percentiles are computed from: rounds, or the requests of a round."""
    seconds = bench.extra_info.get("latencies_s") or bench.stats.data
    return 1e3 * np.asarray(seconds) / bench.extra_info["calls"]


def _joined(extras: list[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Yield the further fields of all blocks: numbers by their median, the rest of the last block."""
    for key in extras[-1]:
        yield key, _median([extra[key] for extra in extras if key in extra])


def _median(values: list[Any]) -> Any:
    last = values[-1]
    if isinstance(last, bool) or not isinstance(last, (int, float, list, dict)):
        return last
    if isinstance(last, dict):
        return {key: _median([value[key] for value in values if key in value]) for key in last}
    if isinstance(last, list):
        return [_median(list(some)) for some in zip(*values, strict=False)]
    return _significant(np.median(values)) if isinstance(last, float) else int(np.median(values))


def _significant(value: float, digits: int = 5) -> float:
    """Round to significant digits."""
    value = float(value)
    if value == 0 or not math.isfinite(value):
        return value
    return round(value, digits - 1 - math.floor(math.log10(abs(value))))


def run_of(
    rows: list[dict[str, Any]], limits: dict[str, Any], size: str, started: datetime
) -> dict[str, Any]:
    """Return a run: rows, and everything needed to repeat them."""
    revision, changed = machine.revision()
    return {
        "id": started.strftime("%Y%m%dT%H%M%SZ"),
        "started": started.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "seconds": round((datetime.now(UTC) - started).total_seconds()),
        "size": size,
        "revision": revision,
        "changed": changed,
        "threads": len(os.sched_getaffinity(0)),
        "data": "folder" if (Path(os.environ.get("CARE_DATA", "")) / "retrieval").is_dir() else "demo",
        "versions": machine.versions(),
        "limits": limits,
        "rows": rows,
    }


def runs_before(file: Path | None = None) -> tuple[Path, dict[str, Any], list[Any]]:
    """Return this machine's file, what is known of the machine, and the runs that the file holds.

    Parameters
    ----------
    file : Path, optional
        bench/results/<machine>.json by default.

    Raises
    ------
    CareError
        The file is damaged, of another schema, or of another machine.
    """
    here = machine.describe()
    file = file or FOLDER / f"{here['name']}.json"
    if not file.exists():
        return file, here, []
    mend = "move it away, or name another by --bench-results"
    known = read_json(file, mend)
    there, runs = known.get("machine"), known.get("runs")
    if known.get("schema") != SCHEMA or not isinstance(there, dict) or not isinstance(runs, list):
        raise CareError(f"{file}: holds no runs of schema {SCHEMA}; {mend}")
    if (name := there.get("name")) != here["name"]:
        raise CareError(f"{file}: is of the machine {name}, and this is {here['name']}; {mend}")
    return file, here, runs


def append(run: dict[str, Any], file: Path | None = None) -> Path:
    """Add a run to this machine's file and return the file; what does not come out again is marked."""
    file, here, before = runs_before(file)
    mark_unrepeated(run, before)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"schema": SCHEMA, "machine": here, "runs": [*before, run]})
    return file


def mark_unrepeated(run: dict[str, Any], before: list[dict[str, Any]]) -> None:
    """Mark rows as noisy whose ratio is another than in the latest run before of the same size.

    Faster code looks the same at first: it may be quoted once a further run agrees.
    """
    former = next((one for one in reversed(before) if one["size"] == run["size"]), None)
    ratios = {key_of(row): row["ratio"] for row in former["rows"]} if former else {}
    for row in run["rows"]:
        then, now = ratios.get(key_of(row)), row["ratio"]
        if then and now and max(then, now) / min(then, now) - 1 > NOISE:
            row["noisy"] = True
            row["other_before"] = {"run": former["id"], "ratio": then}


def lines(rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """Yield each group with one line per row, fastest first: percentiles, ratio, share of the limit."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["suite"], row["group"]].append(row)
    for (suite, group), some in groups.items():
        width = max(len(row["name"]) for row in some)
        yield f"{suite}: {group}", [_line(row, width) for row in sorted(some, key=lambda r: r["p50_ms"])]


def _line(row: dict[str, Any], width: int) -> str:
    line = f"{row['name']:<{width}}  p50 {_time(row['p50_ms'])}  p95 {_time(row['p95_ms'])}  p99 {_time(row['p99_ms'])} ms"
    line += f"{row['ratio']:8.2f} x ours" if row["ratio"] is not None else " " * 15
    if row["limit"]:
        line += f"{row['limit']['share']:7.0%} of the {row['limit']['name']}"
    marks = [mark for mark, there in (("NOISY", row["noisy"]), ("in cache", row["in_cache"])) if there]
    marks += ["not exact"] * (not row["exact"])
    if "recall" in row:
        marks.append(f"recall {row['recall']:.4f}")
    if "rate" in row:
        marks.append(f"{row['rate']:,.0f} a second")
    return f"{line}   {', '.join([*marks, *filter(None, [row['note']])])}".rstrip()


def _time(milliseconds: float | None) -> str:
    return f"{'-':>9}" if milliseconds is None else f"{milliseconds:9.3f}"
