"""Reads benchmark result files, one per machine, and selects the newest run of each group."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from care_accel.errors import CareError
from care_accel.files import read_json

SCHEMA = 1
_FIX = "remove that run from the file, or run the benchmark again"


@dataclass(frozen=True)
class Row:
    """One measurement, comparable within its group.

    Times are milliseconds per call, with all its queries; ``bytes`` is the memory of an index, ``model_bytes`` of a
    model; ``parts_us`` has p50 and p99 in microseconds by part.
    """

    suite: str
    group: str
    name: str
    ours: bool
    p50_ms: float
    p95_ms: float | None = None
    p99_ms: float | None = None
    exact: bool = True
    parameters: Mapping[str, Any] = field(default_factory=dict)
    rounds: int | None = None
    ratio: float | None = None
    ratios: tuple[float, ...] = ()
    noisy: bool = False
    limit: Mapping[str, Any] | None = None
    in_cache: bool = False
    note: str = ""
    parts_us: Mapping[str, tuple[float, float | None]] = field(default_factory=dict)
    quality: Mapping[str, Any] | None = None
    recall: float | None = None
    bytes: float | None = None
    model_bytes: float | None = None
    rate: float | None = None
    concurrency: int | None = None

    @property
    def queries(self) -> float:
        """Queries per call."""
        return float(self.parameters.get("queries", 1))

    @property
    def ms_per_query(self) -> float:
        """Median time per query."""
        return self.p50_ms / self.queries

    def per_query(self, milliseconds: float | None) -> float | None:
        """Convert a time per call to one per query."""
        return None if milliseconds is None else milliseconds / self.queries


@dataclass(frozen=True)
class Run:
    """Results of one benchmark run."""

    id: str
    started: str
    size: str
    revision: str
    changed: bool
    threads: int | None
    data: str
    versions: Mapping[str, Any]
    limits: Mapping[str, Mapping[str, Any]]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Group:
    """Comparable rows of one run."""

    suite: str
    name: str
    run: Run
    rows: tuple[Row, ...]

    @property
    def ours(self) -> Row | None:
        """Our row, the reference of all ratios."""
        return next((row for row in self.rows if row.ours), None)


@dataclass(frozen=True)
class Machine:
    """A machine and its runs, oldest first."""

    file: Path
    facts: Mapping[str, Any]
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """Name of the machine and of its file."""
        return str(self.facts["name"])

    @property
    def conclusive(self) -> tuple[Run, ...]:
        """Runs with meaningful times; smoke runs only if there are no others."""
        return tuple(run for run in self.runs if run.size != "smoke") or self.runs

    @property
    def latest(self) -> Run:
        """The newest run with meaningful times."""
        return self.conclusive[-1]

    def groups(self) -> list[Group]:
        """Return all groups of all suites, each from its newest run."""
        newest: dict[tuple[str, str], Group] = {}
        for run in self.conclusive:
            rows: dict[tuple[str, str], list[Row]] = {}
            for row in run.rows:
                rows.setdefault((row.suite, row.group), []).append(row)
            newest |= {(suite, name): Group(suite, name, run, tuple(r)) for (suite, name), r in rows.items()}
        return list(newest.values())


def read_machines(folder: Path, machine: str | None = None) -> list[Machine]:
    """Read the results of all machines in a folder, CPU-only machines first.

    Parameters
    ----------
    folder : Path
        Such as ``bench/results``; files without runs are skipped.
    machine : str, optional
        Only this machine.

    Raises
    ------
    CareError
        A file is not JSON, of another schema, or has an invalid row; or there is no such machine.
    """
    found = [m for m in map(_read, sorted(folder.glob("*.json"))) if m is not None and m.runs]
    found.sort(key=lambda one: (bool(one.facts.get("gpu")), one.name))
    if machine is None:
        return found
    chosen = [one for one in found if one.name == machine]
    if not chosen:
        names = ", ".join(one.name for one in found) or "no machine"
        raise CareError(f"--machine {machine}: {folder} has results of {names}")
    return chosen


def _read(file: Path) -> Machine | None:
    try:
        values = read_json(file, "")
    except CareError as wrong:
        raise CareError(f"{wrong}; correct it, or remove the file and run pytest bench again") from None
    if "runs" not in values:
        return None
    if values.get("schema") != SCHEMA:
        raise CareError(
            f"{file}: unknown schema {values.get('schema')!r}; this release reads {SCHEMA}: remove the file and "
            "run pytest bench again"
        )
    facts = _object(values.get("machine"), f"{file}: 'machine'")
    _text(facts, "name", f"{file}: 'machine'")
    runs = values["runs"]
    if not isinstance(runs, list):
        raise CareError(f"{file}: 'runs' is not a list; {_FIX}")
    return Machine(file, facts, tuple(_run(run, f"{file}, run {i}") for i, run in enumerate(runs, start=1)))


def _run(value: Any, where: str) -> Run:
    values = _object(value, where)
    rows = values.get("rows")
    if not isinstance(rows, list):
        raise CareError(f"{where}: 'rows' is not a list; {_FIX}")
    started = _text(values, "started", where)
    limits = _object(values.get("limits") or {}, f"{where}: 'limits'")
    for name, limit in limits.items():
        _object(limit, f"{where}: limit {name!r}")
        for key in ("median", "low", "high"):
            _number(limit, key, f"{where}: limit {name!r}")
    threads = _number(values, "threads", where)
    return Run(
        id=str(values.get("id", started)),
        started=started,
        size=str(values.get("size", "default")),
        revision=str(values.get("revision") or "unknown"),
        changed=bool(values.get("changed")),
        threads=None if threads is None else int(threads),
        data=str(values.get("data", "")),
        versions=_object(values.get("versions") or {}, f"{where}: 'versions'"),
        limits=limits,
        rows=tuple(row_of(row, f"{where}, row {i}") for i, row in enumerate(rows, start=1)),
    )


def row_of(value: Any, where: str) -> Row:
    """Validate a row of a file; ``where`` identifies file and row in error messages.

    Raises
    ------
    CareError
        A field is missing or invalid.
    """
    values = _object(value, where)
    names: dict[str, Any] = {key: _text(values, key, where) for key in ("suite", "group", "name")}
    where = f"{where} ({names['name']})"
    numbers: dict[str, Any] = {
        key: _number(values, key, where)
        for key in ("p95_ms", "p99_ms", "ratio", "recall", "bytes", "model_bytes", "rate")
    }
    p50 = _number(values, "p50_ms", where)
    if p50 is None or p50 <= 0:
        raise CareError(f"{where}: 'p50_ms' is {p50!r}; it must be a number above 0: {_FIX}")
    if numbers["ratio"] is not None and numbers["ratio"] <= 0:
        raise CareError(f"{where}: 'ratio' is {numbers['ratio']!r}; it must be a number above 0: {_FIX}")
    parameters = _object(values.get("parameters") or {}, f"{where}: 'parameters'")
    queries = _number(parameters, "queries", f"{where}: 'parameters'")
    if queries is not None and queries <= 0:
        raise CareError(f"{where}: 'queries' is {queries!r}; it must be a number above 0: {_FIX}")
    limit, quality = (
        None if values.get(key) is None else _object(values[key], f"{where}: {key!r}")
        for key in ("limit", "quality")
    )
    if limit is not None:
        _number(limit, "share", f"{where}: 'limit'", required=True)
        _text(limit, "name", f"{where}: 'limit'")
    if quality is not None:
        _number(quality, "score", f"{where}: 'quality'", required=True)
        _text(quality, "task", f"{where}: 'quality'")
    rounds, concurrency = (_number(values, key, where) for key in ("rounds", "concurrency"))
    return Row(
        **names,
        **numbers,
        p50_ms=p50,
        ours=bool(values.get("ours")),
        exact=bool(values.get("exact", True)),
        parameters=parameters,
        rounds=None if rounds is None else int(rounds),
        ratios=_ratios(values.get("ratios") or [], where),
        noisy=bool(values.get("noisy")),
        limit=limit,
        in_cache=bool(values.get("in_cache")),
        note=str(values.get("note") or ""),
        parts_us=_parts(values.get("parts_us") or {}, where),
        quality=quality,
        concurrency=None if concurrency is None else int(concurrency),
    )


def _parts(value: Any, where: str) -> dict[str, tuple[float, float | None]]:
    parts: dict[str, tuple[float, float | None]] = {}
    for name, times in _object(value, f"{where}: 'parts_us'").items():
        pair = list(times) if isinstance(times, list) else [times]
        if not pair or not all(_finite(time) and time >= 0 for time in pair if time is not None):
            raise CareError(f"{where}: part {name!r} must have times in microseconds: {_FIX}")
        if pair[0] is None:
            raise CareError(f"{where}: part {name!r} has no median: {_FIX}")
        parts[name] = (float(pair[0]), None if len(pair) < 2 or pair[1] is None else float(pair[1]))
    return parts


def _ratios(value: Any, where: str) -> tuple[float, ...]:
    if not isinstance(value, list) or not all(map(_finite, value)):
        raise CareError(f"{where}: 'ratios' is not a list of numbers: {_FIX}")
    return tuple(map(float, value))


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number(values: Mapping[str, Any], key: str, where: str, *, required: bool = False) -> float | None:
    value = values.get(key)
    if value is None and not required:
        return None
    if not _finite(value):
        raise CareError(f"{where}: {key!r} is {value!r}; it must be a number: {_FIX}")
    return float(value)  # type: ignore[arg-type]  # checked by _finite


def _text(values: Mapping[str, Any], key: str, where: str) -> str:
    value = values.get(key)
    if not isinstance(value, str) or not value:
        raise CareError(f"{where}: {key!r} is {value!r}; it must be a string: {_FIX}")
    return value


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CareError(f"{where} is not a JSON object; {_FIX}")
    return value
