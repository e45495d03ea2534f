"""What a run tells: a line when something happens, the state every ten seconds, and all of it for machines."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, time
from typing import IO, Any

from care_accel.cluster.folding import Folder
from care_accel.errors import not_written

EVERY = 10.0
_TURN_SECONDS = 1.0


@dataclass
class Encoded:
    """What a run did.

    Attributes
    ----------
    parts : int
        Parts of the plan.
    parts_before : int
        Parts that were done when the call began.
    new, changed, same, read, doubled : int
        Documents, as in `Upserted`, but one that comes in several parts counts in each; those of parts that were done before
        included.
    chunks, tokens, truncated : int
        What was encoded, as there.
    halved : int
        How often memory ran out on a batch, which was tried again with half.
    skipped : list of dict
        Place and reason of rows that were left out.
    set_aside : dict of int to str
        Parts that are not in the collection, with the reason and where their rows are.
    deaths : int
        Workers that died.
    commits : int
        Commits of parts into the table.
    seconds : float
    version : int
        Of the collection afterwards.
    stopped : bool
        Whether `stop` ended it before the last part.
    """

    parts: int = 0
    parts_before: int = 0
    new: int = 0
    changed: int = 0
    same: int = 0
    read: int = 0
    doubled: int = 0
    chunks: int = 0
    tokens: int = 0
    truncated: int = 0
    halved: int = 0
    skipped: list[dict[str, str]] = field(default_factory=list)
    set_aside: dict[int, str] = field(default_factory=dict)
    deaths: int = 0
    commits: int = 0
    seconds: float = 0.0
    version: int = 0
    stopped: bool = False

    def add(self, record: dict[str, Any]) -> None:
        """Add the record of a part."""
        for name in ("new", "changed", "same", "read", "doubled", "chunks", "tokens", "truncated", "halved"):
            setattr(self, name, getattr(self, name) + record[name])
        self.skipped += record["skipped"]


class Progress:
    """Tells what happens; several threads may.

    Parameters
    ----------
    total_tokens : int
        Estimated tokens of all parts.
    json_log : Path, optional
        File to which events are appended, one JSON object a line.
    show : callable
        Prints a line.
    """

    def __init__(
        self, total_tokens: int, json_log: Path | None = None, show: Callable[[str], None] | None = None
    ) -> None:
        self._show = show if show is not None else _print
        self._log: IO[str] | None = None
        if json_log is not None:
            try:
                self._log = json_log.open("a", encoding="utf-8")
            except OSError as cause:
                raise not_written(json_log, cause) from None
        self._lock = threading.RLock()
        self._total, self._done = total_tokens, 0
        self._fresh = 0
        self._begun = self._told = monotonic()
        self._workers: dict[str, list[float]] = {}

    def close(self) -> None:
        """Close the log."""
        if self._log is not None:
            self._log.close()

    def event(self, name: str, text: str = "", **values: Any) -> None:
        """Log an event, and show it if it has a text."""
        with self._lock:
            if self._log is not None:
                line = json.dumps({"time": time(), "event": name, **values}, ensure_ascii=False)
                try:
                    self._log.write(line + "\n")
                    self._log.flush()
                except OSError as cause:
                    raise not_written(self._log.name, cause) from None
            if text:
                self._show(text)

    def commit(self, folder: Folder) -> None:
        """Log a commit."""
        self.event("commit", committed=len(folder.folded), version=folder.table.version)

    def part(self, number: int, estimate: int, record: dict[str, Any], worker: str, *, before: bool) -> None:
        """Count a part that is done."""
        with self._lock:
            self._done += estimate
            if before:
                return
            self._fresh += estimate
            known = self._workers.setdefault(worker, [0.0, 0.0, 0.0])
            for i, value in enumerate((record["read"], record["tokens"], record["seconds"])):
                known[i] += value
        self.event(
            "part",
            part=number,
            worker=worker,
            documents=record["read"],
            encoded=record["chunks"],
            tokens=record["tokens"],
            seconds=round(record["seconds"], 3),
            halved=record["halved"],
        )

    def gone(self, worker: str) -> None:
        """Leave a worker out of the rates."""
        with self._lock:
            self._workers.pop(worker, None)

    def tick(self, waiting_for: str, committed: int, parts: int) -> None:
        """Tell the state, every ten seconds."""
        with self._lock:
            now = monotonic()
            if now - self._told >= EVERY:
                self._told = now
                self._state(now, waiting_for, committed, parts)

    def _state(self, now: float, waiting_for: str, committed: int, parts: int) -> None:
        rates = {name: (d / s, t / s) for name, (d, t, s) in self._workers.items() if s > 0}
        seconds = (self._total - self._done) * (now - self._begun) / self._fresh if self._fresh else None
        documents, tokens = sum(r[0] for r in rates.values()), sum(r[1] for r in rates.values())
        slowest = min(rates, key=lambda name: rates[name][1]) if len(rates) > 1 else None
        text = f"{committed:,} of {parts:,} parts in the collection"
        if rates:
            text += f"; {documents:,.0f} documents and {tokens:,.0f} tokens a second of {len(rates)} workers"
        if slowest:
            text += f", slowest {slowest} with {rates[slowest][1]:,.0f} tokens"
        if seconds is not None:
            text += f"; about {seconds:,.0f} s left"
        self.event(
            "state",
            f"{text}; waiting for {waiting_for}",
            committed=committed,
            parts=parts,
            seconds_left=seconds,
            waiting_for=waiting_for,
            workers={name: {"documents": d, "tokens": t} for name, (d, t) in rates.items()},
        )


@contextmanager
def repeated(tell: Callable[[], None]) -> Iterator[None]:
    """Call every second, in a thread, while something takes its time."""
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(_TURN_SECONDS):
            tell()

    thread = threading.Thread(target=work, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
