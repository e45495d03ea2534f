"""Encodes a corpus into a collection: by one process, or by the workers of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

from care_accel.cluster.committing import Committer
from care_accel.cluster.folding import Folder
from care_accel.cluster.part import Job, PartEncoder, SetAside, first_types
from care_accel.cluster.plan import Part, Plan, Reading, make_plan
from care_accel.cluster.progress import Encoded, Progress, repeated
from care_accel.cluster.run_folder import RunFolder
from care_accel.collection import Collection
from care_accel.collection.storage.driver_lock import driver_lock
from care_accel.collection.storage.layout import is_remote
from care_accel.collection.storage.table import Table
from care_accel.encoding.base import BaseDualEncoder
from care_accel.errors import CareError, require_count

# As after an upsert: from so many documents on the index of ids is brought up to date.
_INDEXED_FROM = 10_000


class Sink(Protocol):
    """Takes what happens to parts."""

    def done(self, part: Part, record: dict[str, Any], worker: str) -> None:
        """Take a part that is done."""
        ...

    def aside(self, part: Part, reason: str) -> None:
        """Take a part that cannot be encoded."""
        ...

    def died(self, worker: str, reason: str) -> None:
        """Take the death of a worker."""
        ...

    def tell(self, event: str, text: str, **values: Any) -> None:
        """Tell something."""
        ...

    def tick(self, waiting_for: str) -> None:
        """Tell what is waited for, when it is time."""
        ...

    def stopped(self) -> bool:
        """Return whether the run is to end now."""
        ...


def encode_corpus(
    sources: str | Path | Sequence[str | Path],
    collection: Collection | str | Path,
    *,
    cluster: str = "auto",
    model: BaseDualEncoder | str | Path | None = None,
    reading: Reading | None = None,
    workers: int | None = None,
    gpus_per_worker: float | None = None,
    cpus_per_worker: float = 1,
    wait_seconds: float = 600,
    part_tokens: int | None = None,
    batch_tokens: int | None = None,
    new_plan: bool = False,
    mixed_runtimes: bool = False,
    json_log: str | Path | None = None,
    show: Callable[[str], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Encoded:
    """Encode documents of files into a collection, as an upsert does, on many machines.

    The call plans parts of some minutes of work, has workers encode them, and takes what they wrote into the table in few
    commits. Whatever is killed, the same call goes on: only parts that were not done are encoded again.

    Parameters
    ----------
    sources : str, Path or sequence of them
        As in `read_documents`, on storage that all workers see at the same paths; neither standard input nor ``hf:``.
    collection : Collection, str or Path
        A collection that exists, in a folder that all workers see at the same path, or in an object store. Its
        ``storage_options`` go to the workers; what is not in them each takes from its own environment.
    cluster : str
        ``"auto"`` for the Ray cluster of this machine, the address of a cluster's head (``host:port``), or
        ``"none"`` to encode in this process.
    model : BaseDualEncoder, str or Path, optional
        By default the one that the collection records. Workers load it from the same folder or name, and check its hash.
    reading : Reading, optional
        How rows become documents.
    workers : int, optional
        Most workers; by default as many as the cluster has room for, those included that join later.
    gpus_per_worker : float, optional
        By default 1 if the cluster has GPUs, else 0.
    cpus_per_worker : float
        CPUs, and threads of the native runtime.
    wait_seconds : float
        Most seconds until the first worker has a place.
    part_tokens : int, optional
        As in `make_plan`.
    batch_tokens : int, optional
        Most tokens of a batch, padding included; 16,384 by default. The runtime of a GPU with more memory may like more.
    new_plan : bool
        Leave an unfinished run of other sources or settings: what it has done goes into the collection first.
    mixed_runtimes : bool
        Allow workers whose runtimes give vectors that differ by more than 1e-5.
    json_log : str or Path, optional
        File to which events are appended, one JSON object a line.
    show : callable, optional
        Prints a line; by default to standard error.
    stop : callable
        Asked often; true ends the call. What is done is committed.

    Returns
    -------
    Encoded
        ``set_aside`` names parts that are not in the collection; all others are.

    Raises
    ------
    CareError
        A row cannot be read, another plan is unfinished, another process encodes into the collection, no worker can be
        had, or all workers fail.
    """
    begun = perf_counter()
    if batch_tokens is not None:
        require_count("batch_tokens", batch_tokens)
    opened = (
        collection
        if isinstance(collection, Collection)
        else Collection.open(collection, model=model if model is not None else None)
    )
    engine = None if cluster == "none" else import_module("care_accel.cluster.ray_engine")
    if engine is not None:
        engine.require_ray()
    reading = reading if reading is not None else Reading()
    paths = [sources] if isinstance(sources, str | Path) else list(sources)
    # Workers have other working folders.
    uri = opened.uri if is_remote(opened.uri) else os.path.abspath(opened.uri)
    options = opened.storage_options
    run = RunFolder.of(uri, options)
    with ExitStack() as stack:
        may_commit = stack.enter_context(driver_lock(uri, options))
        plan = make_plan(paths, reading, opened.manifest, part_tokens=part_tokens)
        table = Table.open(uri, storage_options=options)
        _begin(run, plan, reading, table, new_plan, may_commit)
        base = int(run.state()["base"])
        progress = Progress(plan.tokens, Path(json_log) if json_log is not None else None, show)
        stack.callback(progress.close)
        progress.event("plan", parts=len(plan.parts), tokens=plan.tokens, hash=plan.hash, base=base)
        committer = stack.enter_context(Committer(run, plan, table, may_commit, progress.commit))
        driver = _Driver(committer, run, plan, progress, stop)
        left = driver.take_records()
        job = Job(uri, base, reading, mixed_runtimes, options, batch_tokens)
        try:
            if left and engine is None:
                _encode_here(left, PartEncoder(job, opened.model, run), driver)
            elif left and engine is not None:
                settings = engine.Settings(cluster, workers, gpus_per_worker, cpus_per_worker, wait_seconds)
                engine.encode(left, job, run, opened.model, settings, driver)
        finally:
            # What is done stays done, also after an error.
            committer.finish(driver.tick, driver.end)
        found = driver.found
        opened.refresh()
        found.version, found.seconds = opened.version, perf_counter() - begun
        found.commits = committer.folder.commits
        progress.event("end", seconds=found.seconds, version=found.version, set_aside=sorted(found.set_aside))
    return found


def _begin(
    run: RunFolder,
    plan: Plan,
    reading: Reading,
    table: Table,
    new_plan: bool,
    may_commit: Callable[[], None],
) -> None:
    """Begin the run of a plan, or go on with it."""
    known = run.plan() if not new_plan else _known(run)
    if known is not None and known.hash == plan.hash:
        return
    if known is not None and not new_plan:
        raise CareError(
            f"{table.uri}: an unfinished run has another plan (other or changed sources, settings or model); run its command again, or "
            "leave it with --new-plan, which keeps what it has done"
        )
    if known is not None:
        folder = Folder(run, known, table, may_commit)
        records = run.records()
        for part in known.parts:
            if part.number in records:
                folder.add(part.number, records[part.number])
            else:
                folder.set_aside(part.number)
        folder.finish()
        table = folder.table
    types = first_types(reading, iter(plan.parts), table)
    table = table.add_fields(types.known)
    run.begin(plan, table.version)


def _known(run: RunFolder) -> Plan | None:
    try:
        return run.plan()
    except CareError:  # of another release, or changed by hand
        return None


class _Driver:
    """Counts what happens, and hands on what is done."""

    def __init__(
        self, committer: Committer, run: RunFolder, plan: Plan, progress: Progress, stop: Callable[[], bool]
    ) -> None:
        self._committer = committer
        self.found = Encoded(parts=len(plan.parts))
        self._run, self._plan, self._progress, self._stop = run, plan, progress, stop

    def take_records(self) -> list[Part]:
        """Take the parts that are done; return the others in the order of work."""
        records = self._run.records()
        self.found.parts_before = len(records)
        for part in self._plan.parts:
            if part.number in records:
                self._take(part, records[part.number], "", before=True)
        return [part for part in self._plan.work_order() if part.number not in records]

    def done(self, part: Part, record: dict[str, Any], worker: str) -> None:
        self._take(part, record, worker, before=False)

    def _take(self, part: Part, record: dict[str, Any], worker: str, *, before: bool) -> None:
        self.found.add(record)
        self._progress.part(part.number, part.tokens, record, worker, before=before)
        self._committer.add(part.number, record)

    def aside(self, part: Part, reason: str) -> None:
        self.found.set_aside[part.number] = reason
        self._committer.set_aside(part.number)
        self._progress.event("aside", f"set aside: {reason}", part=part.number, reason=reason)

    def died(self, worker: str, reason: str) -> None:
        self.found.deaths += 1
        self._progress.gone(worker)
        self._progress.event("death", f"{worker} died: {reason}", worker=worker, reason=reason)

    def tell(self, event: str, text: str, **values: Any) -> None:
        self._progress.event(event, text, **values)

    def tick(self, waiting_for: str) -> None:
        self._progress.tick(waiting_for, len(self._committer.folder.folded), len(self._plan.parts))

    def end(self, folder: Folder) -> None:
        """End a run that the table has all of."""
        if len(folder.folded) == len(self._plan.parts):
            self._run.end()
            if self.found.new + self.found.changed >= _INDEXED_FROM:
                folder.table.index_ids()

    def stopped(self) -> bool:
        self._committer.check()
        if self._stop():
            self.found.stopped = True
        return self.found.stopped


def _encode_here(parts: Sequence[Part], encoder: PartEncoder, sink: Sink) -> None:
    for part in parts:
        if sink.stopped():
            return
        try:
            with repeated(partial(sink.tick, part.describe())):
                record = encoder.encode(part)
            sink.done(part, record, "here")
        except SetAside as reason:
            sink.aside(part, str(reason))
