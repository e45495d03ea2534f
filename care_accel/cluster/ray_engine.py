"""Parts on a Ray cluster: workers are actors, a part's descriptor is all that goes through Ray, and every wait has an end."""

from __future__ import annotations

import pickle
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from care_accel.cluster.connection import Head, connected, first_line
from care_accel.cluster.part import Job
from care_accel.cluster.plan import Part
from care_accel.cluster.run_folder import RunFolder
from care_accel.cluster.worker import Worker
from care_accel.encoding.base import BaseDualEncoder
from care_accel.errors import CareError
from care_accel.version import __version__

if TYPE_CHECKING:
    from care_accel.cluster.encode import Sink

# A part that killed its worker, or failed, so often is set aside; a worker that failed so often in a row is not used.
_TRIES, _STRIKES = 3, 2
# The second one begins while the driver takes in what the first one did.
_IN_FLIGHT = 2
_TURN_SECONDS = 1.0
_COUNT_SECONDS = 5.0


@dataclass(frozen=True)
class Settings:
    """How a cluster is used.

    Attributes
    ----------
    address : str
        ``"auto"`` or ``host:port``.
    workers : int or None
        Most workers; None for as many as there is room for.
    gpus, cpus : float
        Of one worker; ``gpus`` None for 1 where the cluster has GPUs.
    place_seconds, start_seconds, part_seconds : float
        Limits: until the first worker has a place, for loading the network, and for one part.
    """

    address: str
    workers: int | None = None
    gpus: float | None = None
    cpus: float = 1.0
    place_seconds: float = 600.0
    start_seconds: float = 1800.0
    part_seconds: float = 7200.0


def require_ray() -> None:
    """Check that Ray is installed.

    Raises
    ------
    CareError
        It is not; the message names the extra.
    """
    if find_spec("ray") is None:
        raise CareError("encoding on a cluster needs the package ray: pip install 'care-accel[cluster]'")


def encode(
    parts: Sequence[Part], job: Job, run: RunFolder, model: BaseDualEncoder, settings: Settings, sink: Sink
) -> None:
    """Have the workers of a cluster encode parts, in their order.

    Raises
    ------
    CareError
        The cluster cannot be reached or is gone, no worker has a place or can start, a row cannot be read, or all workers
        fail.
    """
    for name, value in (("workers", settings.workers), ("cpus_per_worker", settings.cpus)):
        if value is not None and not value > 0:
            raise CareError(f"{name} is {value}; it must be more than 0")
    pickled = pickle.dumps(model)
    with connected(settings.address):
        _Fleet(parts, job, run, pickled, settings, sink).work()


@dataclass
class _Member:
    """A worker."""

    handle: Any
    name: str
    stage: str = "placed"
    waits_for: Any = None
    since: float = field(default_factory=monotonic)
    tasks: deque[tuple[Any, Part]] = field(default_factory=deque)
    strikes: int = 0

    @property
    def pending(self) -> Any:
        """What is to come next of it."""
        return self.tasks[0][0] if self.tasks else self.waits_for

    def enter(self, stage: str, waits_for: Any = None) -> None:
        self.stage, self.waits_for, self.since = stage, waits_for, monotonic()


class _Fleet:
    """The workers of a run, and the parts that are left."""

    def __init__(
        self, parts: Sequence[Part], job: Job, run: RunFolder, model: bytes, settings: Settings, sink: Sink
    ) -> None:
        import ray

        self._ray, self._settings, self._sink, self._run = ray, settings, sink, run
        errors = ray.exceptions
        # Of the cluster, not of a worker.
        self._gone = (errors.RaySystemError, errors.LocalRayletDiedError, errors.RpcError)
        self._queue = deque(parts)
        self._members: list[_Member] = []
        self._tries: Counter[int] = Counter()
        self._retired = 0
        self._deaths_at_start = 0
        self._made = 0
        self._error = ""
        self._room, self._counted = 0, 0.0
        self._head, self._head_answers = Head(ray.get_runtime_context().gcs_address), True
        self._idle_since = monotonic()
        gpus = settings.gpus
        if gpus is None:
            gpus = 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
        self._needs = {"CPU": float(settings.cpus), "GPU": float(gpus)}
        options: dict[str, Any] = {"num_cpus": settings.cpus, "num_gpus": gpus}
        self._actor = ray.remote(Worker).options(**options, max_restarts=0, max_task_retries=0)
        threads = max(int(settings.cpus), 1)
        self._arguments = (job, model, threads, __version__)

    def work(self) -> None:
        """Go on until all parts are done or set aside."""
        try:
            while (self._queue or any(m.tasks for m in self._members)) and not self._sink.stopped():
                self._fit()
                self._hand_out()
                self._sink.tick(self._waiting_for())
                self._take()
                self._check_limits()
        except (*self._gone, ConnectionError) as cause:
            raise CareError(
                f"the Ray cluster is gone ({first_line(cause)}); start it, and run the same command again"
            ) from None
        finally:
            for member in self._members:
                self._kill(member)

    def _fit(self) -> None:
        """Ask for workers while there is room and work for more."""
        if monotonic() - self._counted >= _COUNT_SECONDS or not self._counted:
            self._head_answers = self._head.answers()
            if self._head_answers:
                self._room = self._count_room()
            self._counted = monotonic()
        if not self._head_answers:
            return
        wanted = self._room if self._settings.workers is None else self._settings.workers
        left = len(self._queue) + sum(len(m.tasks) for m in self._members)
        wanted = min(wanted, left + self._retired)
        if not self._members and self._retired and wanted <= self._retired:
            raise CareError(f"no worker can work: {self._error}")
        while len(self._members) < wanted - self._retired:
            self._made += 1
            member = _Member(self._actor.remote(*self._arguments), f"worker {self._made}")
            member.waits_for = member.handle.where.remote()
            self._members.append(member)

    def _count_room(self) -> int:
        """Return how many workers fit on the nodes that are there."""
        room = 0
        for node in self._ray.nodes():
            if node["Alive"]:
                fits = [
                    int(node["Resources"].get(name, 0) // need) for name, need in self._needs.items() if need
                ]
                room += min(fits, default=0)
        return room

    def _hand_out(self) -> None:
        for fill in range(1, _IN_FLIGHT + 1):
            for member in self._members:
                if not self._queue:
                    return
                # The last parts go one by one, to whoever is free.
                if fill > 1 and len(self._queue) < len(self._members):
                    return
                if member.stage == "ready" and len(member.tasks) < fill:
                    part = self._queue.popleft()
                    member.tasks.append((member.handle.encode.remote(part), part))
                    if len(member.tasks) == 1:
                        self._begins(member)

    def _take(self) -> None:
        """Wait a turn, and take what has come."""
        pending = {member.pending: member for member in self._members if member.pending is not None}
        if not pending:
            sleep(_TURN_SECONDS)
            return
        ready, _ = self._ray.wait(list(pending), num_returns=1, timeout=_TURN_SECONDS)
        if ready:  # and others that are ready too
            ready, _ = self._ray.wait(list(pending), num_returns=len(pending), timeout=0)
        for reference in ready:
            member = pending[reference]
            try:
                found = self._ray.get(reference)
            except self._gone:
                raise
            except self._ray.exceptions.RayError as cause:
                self._died(member, cause)
                continue
            if member.stage == "placed":
                member.name = f"{found[0]}:{found[1]}"
                member.enter("starting", member.handle.start.remote())
            elif member.stage == "starting":
                self._started(member, found)
            else:
                self._encoded(member, found)

    def _started(self, member: _Member, found: dict[str, Any]) -> None:
        if "error" in found:
            self._retire(member, f"{member.name} cannot start: {found['error']}", found["error"])
            return
        self._deaths_at_start = 0
        member.enter("ready")
        self._sink.tell("worker", f"{member.name} is ready ({found['runtime']})", worker=member.name, **found)

    def _encoded(self, member: _Member, found: dict[str, Any]) -> None:
        _, part = member.tasks.popleft()
        if member.tasks:
            self._begins(member)
        if "record" in found:
            member.strikes = 0
            self._sink.done(part, found["record"], member.name)
        elif found["kind"] == "source":
            raise CareError(found["error"])
        elif found["kind"] == "aside":
            self._sink.aside(part, found["error"])
        else:
            text = found["error"]
            self._sink.tell("error", f"{member.name}: {text}", worker=member.name, part=part.number)
            member.strikes += 1
            self._tries[part.number] += 1
            if self._tries[part.number] >= _TRIES:
                self._sink.aside(part, f"{part.describe()} failed {_TRIES} times: {text}")
            else:
                self._queue.append(part)
            if member.strikes >= _STRIKES:
                self._retire(member, f"{member.name} failed {_STRIKES} times in a row and is not used", text)

    def _begins(self, member: _Member) -> None:
        member.since = monotonic()
        self._sink.tell("begin", "", worker=member.name, part=member.tasks[0][1].number)

    def _died(self, member: _Member, cause: Exception) -> None:
        """Hand a dead worker's parts to others; the first of them may have killed it."""
        reason = first_line(cause)
        self._drop(member)
        self._kill(member)  # it may only not have been heard
        self._sink.died(member.name, reason)
        if not member.tasks:
            if member.stage != "ready":
                self._died_at_start(member, reason)
            return
        first = member.tasks[0][1]
        for _, part in reversed(member.tasks):
            record = self._run.record(part.number)
            if record is not None:  # it died after the part was done
                self._sink.done(part, record, member.name)
                continue
            if part is first:
                self._tries[part.number] += 1
                if self._tries[part.number] >= _TRIES:
                    self._sink.aside(part, f"{part.describe()} killed its worker {_TRIES} times: {reason}")
                    continue
            self._queue.appendleft(part)

    def _died_at_start(self, member: _Member, reason: str) -> None:
        """Ask for one worker less where several in a row could not start, and end the run where none can."""
        self._deaths_at_start += 1
        if self._deaths_at_start < _TRIES:
            return
        text = f"{_TRIES} workers in a row died before they were ready: {reason}; look at their memory, and at Ray's logs on "
        if not any(other.stage == "ready" for other in self._members):
            raise CareError(f"{text}their machines")
        self._deaths_at_start = 0
        self._retire(member, f"{text}{member.name}", reason)

    def _retire(self, member: _Member, text: str, error: str) -> None:
        """Do without a worker that always fails, and ask for no other in its place."""
        self._drop(member)
        self._queue.extendleft(part for _, part in reversed(member.tasks))
        self._kill(member)
        self._retired += 1
        self._error = error
        self._sink.tell("retired", text, worker=member.name, error=error)

    def _check_limits(self) -> None:
        now = monotonic()
        if any(member.stage != "placed" for member in self._members):
            self._idle_since = now
        if now - self._idle_since > self._settings.place_seconds:
            has = self._ray.cluster_resources()
            need = ", ".join(f"{value:g} {name}" for name, value in self._needs.items() if value)
            raise CareError(
                f"no worker has found a place in {self._settings.place_seconds:g} s: one needs {need}, the cluster has "
                f"{has.get('CPU', 0):g} CPU, {has.get('GPU', 0):g} GPU; add nodes, or ask for less"
            )
        for member in self._members:
            limit = {
                "starting": self._settings.start_seconds,
                "ready": self._settings.part_seconds if member.tasks else float("inf"),
            }.get(member.stage, float("inf"))
            if now - member.since > limit:
                member.since = now
                self._sink.tell("limit", f"{member.name} took more than {limit:g} s and is ended")
                self._kill(member)  # its death is heard of in the next turn

    def _waiting_for(self) -> str:
        stages = Counter(member.stage for member in self._members)
        texts = [
            f"{stages[stage]} workers to {what}"
            for stage, what in (("placed", "be placed"), ("starting", "load the model"))
            if stages[stage]
        ]
        if running := [member for member in self._members if member.tasks]:
            oldest = min(running, key=lambda member: member.since)
            seconds = monotonic() - oldest.since
            texts.append(
                f"{len(running)} parts, the oldest {oldest.tasks[0][1].number} for {seconds:.0f} s at {oldest.name}"
            )
        if not self._head_answers:
            texts.append("the head of the cluster, which does not answer")
        return " and ".join(texts) or "nodes with room for a worker"

    def _drop(self, member: _Member) -> None:
        self._members = [other for other in self._members if other is not member]

    def _kill(self, member: _Member) -> None:
        with suppress(Exception):  # it may be dead, and the cluster gone
            self._ray.kill(member.handle)
