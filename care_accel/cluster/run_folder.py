"""The folder of a run: its plan, and a record for each part that is done. What is in it is all that going on needs."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from care_accel.cluster.plan import Plan
from care_accel.collection.storage.layout import RECORDS, RUN
from care_accel.collection.storage.objects import Objects, objects_of
from care_accel.errors import CareError

_PLAN, _STATE, _VECTORS = "plan.json", "state.json", "runtime.json"
_MOST_DIFFERENCE = 1e-5


@dataclass(frozen=True)
class Claim:
    """Whether a file was created here, or was there first.

    Attributes
    ----------
    won : bool
    values : dict
        Those that count: of the first.
    """

    won: bool
    values: dict[str, Any]


class RunFolder:
    """The folder of a run, on storage that all workers share.

    Parameters
    ----------
    files : Objects
        Of the folder itself: plan and state.
    records : Objects
        Of the folder below it: what is done.
    """

    def __init__(self, files: Objects, records: Objects) -> None:
        self._files = files
        self._records = records

    @classmethod
    def of(cls, uri: str, storage_options: Mapping[str, str] | None = None) -> RunFolder:
        """Return the folder of a collection's run."""
        base = f"{uri.rstrip('/')}/{RUN}"
        return cls(objects_of(base, storage_options), objects_of(f"{base}/{RECORDS}", storage_options))

    def plan(self) -> Plan | None:
        """Return the plan of an unfinished run, None if there is none."""
        data = self._files.read(_PLAN)
        where = f"{self._files.where}/{_PLAN}"
        return None if data is None else Plan.read(_values(data, where), where)

    def begin(self, plan: Plan, base: int) -> None:
        """Write a plan, which begins the run.

        Parameters
        ----------
        plan : Plan
        base : int
            Version of the collection that documents are compared with.
        """
        self._clear()
        self.write_state({"base": base, "seen": base, "folded": []})
        self._files.write(_PLAN, _text(plan.write()))  # last: with it the run is there

    def end(self) -> None:
        """Remove the folder of a run that the table has all of."""
        self._files.remove(_PLAN)  # first: a rest is no run
        self._clear()

    def _clear(self) -> None:
        self._records.clear()
        self._files.clear()

    def state(self) -> dict[str, Any]:
        """Return the version compared with (base), the last one looked at (seen), and the parts in the table (folded)."""
        data = self._files.read(_STATE)
        if data is None:
            raise CareError(f"{self._files.where}/{_STATE}: is missing; run again with --new-plan")
        return _values(data, f"{self._files.where}/{_STATE}")

    def write_state(self, state: dict[str, Any]) -> None:
        """Replace the state."""
        self._files.write(_STATE, _text(state))

    def records(self) -> dict[int, dict[str, Any]]:
        """Return the records of the parts that are done."""
        found = {}
        for entry in self._records.entries():
            if entry.name.endswith(".json"):
                number = int(entry.name.partition(".")[0])
                if (record := self.record(number)) is not None:
                    found[number] = record
        return found

    def record(self, number: int) -> dict[str, Any] | None:
        """Return the record of a part, None if it is not done."""
        name = _record(number)
        data = self._records.read(name)
        return None if data is None else _values(data, f"{self._records.where}/{name}")

    def claim(self, number: int, record: dict[str, Any], seen: pa.Table) -> Claim:
        """Commit a part: the first record of it counts.

        Parameters
        ----------
        number : int
        record : dict
        seen : pyarrow.Table
            The documents of the part, kept beside the record.
        """
        name = f"{number:06d}-{uuid.uuid4().hex}.arrow"
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, seen.schema) as writer:
            writer.write_table(seen)
        self._records.write(name, sink.getvalue().to_pybytes())
        made = _create(self._records, _record(number), record | {"part": number, "seen": name})
        if not made.won:
            self._records.remove(name)
        return made

    def seen(self, record: dict[str, Any]) -> pa.Table:
        """Return the documents of a part, as given to `claim`."""
        data = self._records.read(record["seen"])
        if data is None:
            raise CareError(f"{self._records.where}/{record['seen']}: is missing; run again with --new-plan")
        return pa.ipc.open_file(pa.py_buffer(data)).read_all()

    def check_runtime(self, name: str, vectors: NDArray[np.float32], *, mixed: bool) -> None:
        """Compare the vectors of fixed texts with those of the run's first worker.

        Raises
        ------
        CareError
            They differ by more than 1e-5, and the run may not mix.
        """
        values = {"runtime": name, "vectors": [[float(v) for v in row] for row in vectors]}
        first = _create(self._files, _VECTORS, values).values
        known = np.asarray(first["vectors"], dtype=np.float32)
        difference = float(np.abs(known - vectors).max()) if known.shape == vectors.shape else float("inf")
        if not (difference <= _MOST_DIFFERENCE or mixed):  # NaN differs too
            raise CareError(
                f"runtime {name} of this worker differs from {first['runtime']} of the run by {difference:.1e} (more than "
                f"{_MOST_DIFFERENCE:.0e}): use one runtime on all machines, or allow it with --mixed-runtimes"
            )


def _create(objects: Objects, name: str, values: dict[str, Any]) -> Claim:
    """Create a file once; what counts is the first one's."""
    if objects.create(name, _text(values)):
        return Claim(True, values)
    where = f"{objects.where}/{name}"
    data = objects.read(name)
    if data is None:
        raise CareError(f"{where}: was removed meanwhile; run the same command again")
    return Claim(False, _values(data, where))


def _record(number: int) -> str:
    return f"{number:06d}.json"


def _text(values: dict[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False).encode()


def _values(data: bytes, where: str) -> dict[str, Any]:
    try:
        values = json.loads(data)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise CareError(f"{where}: is no JSON object; run again with --new-plan")
    return values


def seen_table(written: Sequence[str], same: Sequence[tuple[str, bytes]]) -> pa.Table:
    """Return the documents of a part: those it writes (hash null), and those that are the same, with their hashes."""
    return pa.table(
        {
            "id": pa.array([*written, *(name for name, _ in same)], pa.string()),
            "hash": pa.array([*([None] * len(written)), *(found for _, found in same)], pa.binary()),
        }
    )
