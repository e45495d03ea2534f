"""Takes parts that are done into the table: in the order of the plan, many in one commit that names them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from care_accel.cluster.plan import Plan
from care_accel.cluster.run_folder import RunFolder
from care_accel.collection.making import with_fields
from care_accel.collection.storage import fragments
from care_accel.collection.storage import table as columns
from care_accel.collection.storage.lance_errors import WriteConflict
from care_accel.collection.storage.rows import ID
from care_accel.collection.storage.table import Table
from care_accel.errors import CareError

# A commit takes so many rows at least, and a share of those that are there, as the ids of the table are read for each; and no
# more than so many, whose ids are in memory.
_LEAST_ROWS, _SHARE, _MOST_ROWS = 100_000, 0.25, 4_000_000
# Arrow makes a table of the ids that it looks for at each call: it is to be worth it.
_LOOKED_AT = 1_000_000
_RETRIES = 20


class Folder:
    """Folds the parts of a run into the table.

    As in an upsert, the last row of an id counts: parts are taken in the order of the plan, and a document of a later part
    replaces that of an earlier one.

    Parameters
    ----------
    run : RunFolder
    plan : Plan
    table : Table
    may_commit : callable
        Raises before a commit that another process makes in this one's place.

    Attributes
    ----------
    folded : set of int
        Parts that the table has.
    commits : int
        Commits so far.
    """

    def __init__(
        self, run: RunFolder, plan: Plan, table: Table, may_commit: Callable[[], None] = lambda: None
    ) -> None:
        self._run, self._plan, self._may_commit = run, plan, may_commit
        self._name = plan.hash.removeprefix("sha256:")[:16]
        self.table = table.latest()
        self.commits = 0
        state = run.state()
        self._base = int(state["base"])
        self.folded = set(state["folded"])
        # A driver that was killed between a commit and its note: the commit says what it holds.
        for message in fragments.messages(self.table, int(state["seen"])).values():
            self.folded |= set(self._parts_of(message))
        self._done: dict[int, dict[str, Any]] = {}
        self._settled: set[int] = set(self.folded)
        self._next = 0
        self._group: list[int] = []
        self._group_rows = 0
        # Hashes of what the group writes: two ids of one hash end the group early, which does no harm.
        self._group_ids: set[int] = set()
        # Whether this run has replaced documents of the version that it compares with.
        self._changed = bool(self.folded) and any(
            record["changed"] for number, record in run.records().items() if number in self.folded
        )
        self._note()

    def add(self, number: int, record: dict[str, Any]) -> None:
        """Take a part that is done; commit when enough wait."""
        self._done[number] = record
        self._settled.add(number)
        self._advance()

    def set_aside(self, number: int) -> None:
        """Go on without a part."""
        self._settled.add(number)
        self._advance()

    def finish(self) -> None:
        """Commit what waits."""
        self._advance()
        self._commit_group()

    def _advance(self) -> None:
        while self._next < len(self._plan.parts) and self._next in self._settled:
            number, self._next = self._next, self._next + 1
            if number in self.folded or number not in self._done:
                continue
            seen = self._run.seen(self._done[number])
            if self._group_ids and not self._group_ids.isdisjoint(map(hash, seen["id"].to_pylist())):
                self._commit_group()
            self._group.append(number)
            self._group_ids.update(map(hash, _written(seen).to_pylist()))
            rows = sum(fragment["physical_rows"] for fragment in self._done[number]["fragments"])
            self._group_rows += max(rows, len(seen))
            wanted = max(_LEAST_ROWS, _SHARE * self.table.count())
            if self._group_rows >= min(wanted, _MOST_ROWS):
                self._commit_group()

    def _commit_group(self) -> None:
        group, self._group, self._group_rows = self._group, [], 0
        self._group_ids = set()
        if not group:
            return
        seen = [self._run.seen(self._done[number]) for number in group]
        written = pa.concat_arrays([_written(one) for one in seen])
        # What was the same when it was compared may have been replaced since, by an earlier part.
        same = pa.concat_tables([one.filter(pc.is_valid(one["hash"])) for one in seen])
        same = same.filter(pc.invert(pc.is_in(same["id"], written)))
        new = [fragment for number in group for fragment in self._done[number]["fragments"]]
        message = json.dumps({"run": self._name, "parts": group})
        for _ in range(_RETRIES):
            self.table = self.table.latest()
            replaced, restored = self._compare(written, same)
            more = self._write_again(restored)
            before = self.table
            if new or more or replaced:
                self._may_commit()
                try:
                    self.table = fragments.commit(before, [*new, *more], replaced, message)
                except WriteConflict:
                    continue
                self.commits += 1
                self._repair(before.version, written, [*new, *more])
            self.folded |= set(group)
            self._changed |= any(self._done[number]["changed"] for number in group)
            self._note()
            for number in group:
                del self._done[number]
            return
        raise CareError(
            f"{self.table.uri}: other writers changed the same documents {_RETRIES} times meanwhile; run the same command again"
        )

    def _compare(self, written: pa.Array, same: pa.Table) -> tuple[dict[int, list[int]], list[str]]:
        """Return the rows to delete, by fragment, and the documents that have to be as they were."""
        if not self.table.count():
            return {}, []
        hashes = {}
        if self._changed:
            hashes = dict(zip(same["id"].to_pylist(), same["hash"].to_pylist(), strict=True))
        known = pa.array(list(hashes), pa.string())
        names = [ID, columns.CHUNK, columns.ROW_HASH]
        restored: set[str] = set()
        if hashes:
            for batch, _, _ in fragments.places(self.table, names, max(_LOOKED_AT, len(known))):
                chosen = batch.filter(pc.and_(pc.is_in(batch[ID], known), pc.equal(batch[columns.CHUNK], 0)))
                for name, found in zip(
                    chosen[ID].to_pylist(), chosen[columns.ROW_HASH].to_pylist(), strict=True
                ):
                    if found != hashes[name]:
                        restored.add(name)
        removed = pa.concat_arrays([written, pa.array(sorted(restored), pa.string())])
        return self._places_of(removed), sorted(restored)

    def _places_of(self, ids: pa.Array) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        if not len(ids):
            return found
        for batch, fragment, offset in fragments.places(self.table, [ID], max(_LOOKED_AT, len(ids))):
            chosen = pc.is_in(batch[ID], ids)
            if not pc.any(chosen).as_py():
                continue
            for number, place in zip(
                fragment.filter(chosen).to_pylist(), offset.filter(chosen).to_pylist(), strict=True
            ):
                found.setdefault(number, []).append(place)
        return found

    def _write_again(self, ids: Sequence[str]) -> list[fragments.Fragment]:
        """Write documents as they were in the version that the run compares with."""
        if not ids:
            return []
        base = self.table.at(self._base)
        rows = base.rows_of(ids, base.schema.names)
        return fragments.write(self.table, with_fields(rows, self.table.fields))

    def _repair(self, before: int, written: pa.Array, new: Sequence[fragments.Fragment]) -> None:
        """Delete what other writers inserted under the same ids between comparison and commit: this commit is the last."""
        if self.table.version == before + 1:
            return
        names = set(fragments.names_of(new))
        own = {
            fragment.fragment_id
            for fragment in self.table.dataset.get_fragments()
            if any(file.path in names for file in fragment.data_files())
        }
        others = {number: rows for number, rows in self._places_of(written).items() if number not in own}
        if own and others:
            message = json.dumps({"run": self._name, "parts": []})
            self.table = fragments.commit(self.table, [], others, message)

    def _parts_of(self, message: str | None) -> list[int]:
        try:
            values = json.loads(message or "{}")
        except ValueError:
            return []
        return list(values.get("parts", [])) if values.get("run") == self._name else []

    def _note(self) -> None:
        self._run.write_state({"base": self._base, "seen": self.table.version, "folded": sorted(self.folded)})


def _written(seen: pa.Table) -> pa.Array:
    found = seen.filter(pc.is_null(seen["hash"]))["id"].combine_chunks()
    return found if isinstance(found, pa.Array) else pa.concat_arrays(found.chunks)
