"""The folder of a run: its plan, and a record for each part that is done. What is in it is all that going on needs."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from care_accel.cluster.plan import Plan
from care_accel.collection.storage.layout import RECORDS, RUN
from care_accel.errors import CareError
from care_accel.files import read_json, write_json

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
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._records = folder / RECORDS

    @classmethod
    def of(cls, uri: str) -> RunFolder:
        """Return the folder of a collection's run."""
        return cls(Path(os.path.abspath(uri)) / RUN)

    def plan(self) -> Plan | None:
        """Return the plan of an unfinished run, None if there is none."""
        file = self.folder / _PLAN
        if not file.is_file():
            return None
        return Plan.read(read_json(file, "a run has one"), file)

    def begin(self, plan: Plan, base: int) -> None:
        """Write a plan, which begins the run.

        Parameters
        ----------
        plan : Plan
        base : int
            Version of the collection that documents are compared with.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            self._records.mkdir(mode=0o700, parents=True)
            self.folder.chmod(0o700)
        except OSError as cause:
            raise CareError(f"{self.folder}: cannot be created: {cause.strerror}") from None
        self.write_state({"base": base, "seen": base, "folded": []})
        write_json(self.folder / _PLAN, plan.write(), private=True)  # last: with it the run is there

    def end(self) -> None:
        """Remove the folder of a run that the table has all of."""
        (self.folder / _PLAN).unlink(missing_ok=True)  # first: a rest is no run
        shutil.rmtree(self.folder, ignore_errors=True)

    def state(self) -> dict[str, Any]:
        """Return the version compared with (base), the last one looked at (seen), and the parts in the table (folded)."""
        return read_json(self.folder / _STATE, "a run has one")

    def write_state(self, state: dict[str, Any]) -> None:
        """Replace the state."""
        write_json(self.folder / _STATE, state, private=True)

    def records(self) -> dict[int, dict[str, Any]]:
        """Return the records of the parts that are done."""
        found = {}
        for file in self._records.glob("*.json"):
            record = read_json(file, "records are written whole")
            found[int(record["part"])] = record
        return found

    def record(self, number: int) -> dict[str, Any] | None:
        """Return the record of a part, None if it is not done."""
        file = self._record_file(number)
        return read_json(file, "records are written whole") if file.is_file() else None

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
        side = self._records / name
        try:
            with pa.OSFile(str(side), "wb") as sink, pa.ipc.new_file(sink, seen.schema) as writer:
                writer.write_table(seen)
        except OSError as cause:
            side.unlink(missing_ok=True)
            raise CareError(f"{side}: cannot be written: {cause.strerror or cause}") from None
        made = self._create(self._record_file(number), record | {"part": number, "seen": name})
        if not made.won:
            side.unlink(missing_ok=True)
        return made

    def seen(self, record: dict[str, Any]) -> pa.Table:
        """Return the documents of a part, as given to `claim`."""
        with pa.memory_map(str(self._records / record["seen"])) as source:
            return pa.ipc.open_file(source).read_all()

    def check_runtime(self, name: str, vectors: NDArray[np.float32], *, mixed: bool) -> None:
        """Compare the vectors of fixed texts with those of the run's first worker.

        Raises
        ------
        CareError
            They differ by more than 1e-5, and the run may not mix.
        """
        first = self._create(
            self.folder / _VECTORS, {"runtime": name, "vectors": [[float(v) for v in row] for row in vectors]}
        ).values
        known = np.asarray(first["vectors"], dtype=np.float32)
        difference = float(np.abs(known - vectors).max()) if known.shape == vectors.shape else float("inf")
        if difference > _MOST_DIFFERENCE and not mixed:
            raise CareError(
                f"runtime {name} of this worker differs from {first['runtime']} of the run by {difference:.1e} (more than "
                f"{_MOST_DIFFERENCE:.0e}): use one runtime on all machines, or allow it with --mixed-runtimes"
            )

    def _record_file(self, number: int) -> Path:
        return self._records / f"{number:06d}.json"

    @staticmethod
    def _create(file: Path, values: dict[str, Any]) -> Claim:
        """Create a file whole, once: a link to a name that is there fails, on network file systems too."""
        temporary = file.with_name(f"{file.name}.{uuid.uuid4().hex}.tmp")
        try:
            number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(number, "w", encoding="utf-8") as stream:
                json.dump(values, stream, ensure_ascii=False)
                stream.flush()
                os.fsync(stream.fileno())
            try:
                os.link(temporary, file)
            except FileExistsError:
                return Claim(False, read_json(file, "it was written whole"))
            return Claim(True, values)
        except OSError as cause:
            raise CareError(f"{file}: cannot be written: {cause.strerror}") from None
        finally:
            temporary.unlink(missing_ok=True)


def seen_table(written: Sequence[str], same: Sequence[tuple[str, bytes]]) -> pa.Table:
    """Return the documents of a part: those it writes (hash null), and those that are the same, with their hashes."""
    return pa.table(
        {
            "id": pa.array([*written, *(name for name, _ in same)], pa.string()),
            "hash": pa.array([*([None] * len(written)), *(found for _, found in same)], pa.binary()),
        }
    )
