"""Benchmark result files: one a machine, read with errors that name the file, and the newest of each group."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from care_accel.errors import CareError
from care_accel.files import read_json

SCHEMA = 1
_MEND = "remove that run from the file, or measure again"


@dataclass(frozen=True)
class Row:
    """One thing that was measured, beside the others of its group.

    Times are milliseconds of one call, with all its queries; ``bytes`` is the memory of an index,
    ``model_bytes`` of a model; ``parts_us`` has a pair of p50 and p99 in microseconds a part.
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
        """How many queries one call has."""
        return float(self.parameters.get("queries", 1))

    @property
    def ms_per_query(self) -> float:
        """The median time of a call, shared out to its queries."""
        return self.p50_ms / self.queries

    def per_query(self, milliseconds: float | None) -> float | None:
        """Return a time of a call, shared out to its queries."""
        return None if milliseconds is None else milliseconds / self.queries


@dataclass(frozen=True)
class Run:
    """All that one call of the benchmarks measured."""

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
    """Rows that are compared with each other, and the run that they are of."""

    suite: str
    name: str
    run: Run
    rows: tuple[Row, ...]

    @property
    def ours(self) -> Row | None:
        """The row that the ratios of the others are to."""
        return next((row for row in self.rows if row.ours), None)


@dataclass(frozen=True)
class Machine:
    """A machine and the runs on it, oldest first."""

    file: Path
    facts: Mapping[str, Any]
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """The name that its file has."""
        return str(self.facts["name"])

    @property
    def proving(self) -> tuple[Run, ...]:
        """The runs whose times say something; of smoke runs only if there is nothing else."""
        return tuple(run for run in self.runs if run.size != "smoke") or self.runs

    @property
    def latest(self) -> Run:
        """The newest run whose times say something."""
        return self.proving[-1]

    def groups(self) -> list[Group]:
        """Return every group of every suite, each of the newest run that has it."""
        newest: dict[tuple[str, str], Group] = {}
        for run in self.proving:
            rows: dict[tuple[str, str], list[Row]] = {}
            for row in run.rows:
                rows.setdefault((row.suite, row.group), []).append(row)
            newest |= {(suite, name): Group(suite, name, run, tuple(r)) for (suite, name), r in rows.items()}
        return list(newest.values())


def read_machines(folder: Path, machine: str | None = None) -> list[Machine]:
    """Return the machines that a folder has results of, with those of a processor first.

    Parameters
    ----------
    folder : Path
        As ``bench/results``; files of another kind, which hold no runs, are passed over.
    machine : str, optional
        Only the one of this name.

    Raises
    ------
    CareError
        A file is no JSON, of another schema, or lacks what a row must have; or there is no such machine.
    """
    found = [m for m in map(_read, sorted(folder.glob("*.json"))) if m is not None and m.runs]
    found.sort(key=lambda one: (bool(one.facts.get("gpu")), one.name))
    if machine is None:
        return found
    chosen = [one for one in found if one.name == machine]
    if not chosen:
        names = ", ".join(one.name for one in found) or "of no machine"
        raise CareError(f"--machine {machine}: {folder} has results of others: {names}")
    return chosen


def _read(file: Path) -> Machine | None:
    try:
        values = read_json(file, "")
    except CareError as wrong:
        raise CareError(f"{wrong}; mend it, or remove the file and run pytest bench again") from None
    if "runs" not in values:
        return None
    if values.get("schema") != SCHEMA:
        raise CareError(
            f"{file}: schema {values.get('schema')!r} is unknown; this release reads {SCHEMA}: remove the file and "
            "run pytest bench again"
        )
    facts = _object(values.get("machine"), f"{file}: 'machine'")
    _text(facts, "name", f"{file}: 'machine'")
    runs = values["runs"]
    if not isinstance(runs, list):
        raise CareError(f"{file}: 'runs' is no list; {_MEND}")
    return Machine(file, facts, tuple(_run(run, f"{file}, run {i}") for i, run in enumerate(runs, start=1)))


def _run(value: Any, where: str) -> Run:
    values = _object(value, where)
    rows = values.get("rows")
    if not isinstance(rows, list):
        raise CareError(f"{where}: 'rows' is no list; {_MEND}")
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
    """Return a row as a file has it; ``where`` names the file and the row in what is said of a mistake.

    Raises
    ------
    CareError
        It lacks what a row must have.
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
        raise CareError(f"{where}: 'p50_ms' is {p50!r}; it must be a number above 0: {_MEND}")
    if numbers["ratio"] is not None and numbers["ratio"] <= 0:
        raise CareError(f"{where}: 'ratio' is {numbers['ratio']!r}; it must be a number above 0: {_MEND}")
    parameters = _object(values.get("parameters") or {}, f"{where}: 'parameters'")
    queries = _number(parameters, "queries", f"{where}: 'parameters'")
    if queries is not None and queries <= 0:
        raise CareError(f"{where}: 'queries' is {queries!r}; it must be a number above 0: {_MEND}")
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
            raise CareError(f"{where}: part {name!r} has no times in microseconds: {_MEND}")
        if pair[0] is None:
            raise CareError(f"{where}: part {name!r} has no median: {_MEND}")
        parts[name] = (float(pair[0]), None if len(pair) < 2 or pair[1] is None else float(pair[1]))
    return parts


def _ratios(value: Any, where: str) -> tuple[float, ...]:
    if not isinstance(value, list) or not all(map(_finite, value)):
        raise CareError(f"{where}: 'ratios' is no list of numbers: {_MEND}")
    return tuple(map(float, value))


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number(values: Mapping[str, Any], key: str, where: str, *, required: bool = False) -> float | None:
    value = values.get(key)
    if value is None and not required:
        return None
    if not _finite(value):
        raise CareError(f"{where}: {key!r} is {value!r}; it must be a number: {_MEND}")
    return float(value)  # type: ignore[arg-type]  # _finite has looked


def _text(values: Mapping[str, Any], key: str, where: str) -> str:
    value = values.get(key)
    if not isinstance(value, str) or not value:
        raise CareError(f"{where}: {key!r} is {value!r}; it must be a text: {_MEND}")
    return value


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CareError(f"{where} is no JSON object; {_MEND}")
    return value
