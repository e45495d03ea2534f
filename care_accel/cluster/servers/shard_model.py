"""Python backend model of a shard's scan: vectors to hits with scores in float64, at the version that is asked for."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from care_accel.cluster.servers.messages import (
    Asked,
    Part,
    State,
    found_outputs,
    missing_outputs,
    read_inputs,
    state_outputs,
)
from care_accel.cluster.shards.answers import Candidate, Document, Found, Loaded, Missing, Refused, Request
from care_accel.collection.storage.layout import is_remote
from care_accel.errors import CareError
from care_accel.serving.backend.live_index import import_arrow, place_of, scan_device
from care_accel.serving.backend.open_collection import json_of
from care_accel.serving.backend.requests import respond
from care_accel.serving.backend.tensors import Backend, array

if TYPE_CHECKING:
    from care_accel.cluster.shards.shard import Shard

# Interval in seconds at which the collection is looked at, in a folder and in an object store.
_LOOK_S, _LOOK_STORE_S = 0.5, 2.0
_CHECK_S = 5.0
# At once, whatever other threads do.
_end = os._exit


class ShardModel:
    """Python backend model ``scan`` of a shard: requests that the server batched are searched together.

    It holds one version of its part, or two while a new one goes live; a gateway says which one it searches. A request without
    vectors has a version loaded and is told whether it is there (see `care_accel.cluster.servers.messages`).

    Parameters in the configuration, as JSON: ``care`` (with ``uuid`` and ``shard``, its number from 0 and the number of shards),
    ``index`` (folder or address of the collection), ``queue`` and ``wait`` (see `Backlog`).
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Load the newest version; fails for another collection or another document encoder."""
        self.backend = Backend(args)
        self._backlog = self.backend.backlog()
        self._seconds = self.backend.counter("scan_seconds", "Seconds spent on exact scans")
        self._queries = self.backend.counter("queries", "Queries searched for")
        known = self.backend.parameters["care"]
        self._most_k = int(known["most_k"])
        self.part = Part(str(known["uuid"]), *map(int, known["shard"]))
        self.shard = self._open(str(known["revision"]))
        self._newest = self.shard.newest()
        self._ended = threading.Event()
        threading.Thread(target=self._follow, name="versions", daemon=True).start()

    def _open(self, revision: str) -> Shard:
        import_arrow()
        from care_accel.cluster.shards.shard import Shard

        place = place_of(self.backend, self.backend.parameters["index"])
        found = Shard(place, self.part.number, self.part.of, device=scan_device(self.backend))
        if found.manifest.uuid != self.part.uuid:
            raise CareError(f"{place} is another collection now; start its shards again")
        if found.manifest.revision != revision:
            raise CareError(
                f"{place}: its vectors were made by document encoder {found.manifest.revision}, not {revision}; start its "
                "shards with the model of the collection"
            )
        return found

    def finalize(self) -> None:
        """Stop looking for new versions, and report the last metrics."""
        self._ended.set()
        self.backend.end()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Return hits, the state or an error for each request."""
        return respond(self.backend, self._backlog, requests, self._read, self._answers)

    def _read(self, request: Any) -> Asked:
        inputs = self.backend.inputs(request)
        asked = read_inputs({name: array(inputs, name) for name in inputs})
        if asked.search is not None and not 1 <= asked.search.k <= self._most_k:
            raise CareError(f"K 0 is {asked.search.k}; it must be 1 to {self._most_k:,}")
        return asked

    def _answers(self, asked: Sequence[Asked]) -> list[Any]:
        answers: list[Any] = [None] * len(asked)
        groups: dict[tuple[Any, ...], list[int]] = {}
        for place, one in enumerate(asked):
            if one.search is None:
                answers[place] = self.backend.answer(**state_outputs(self._state(one)))
            elif one.part != self.part.key:
                answers[place] = self.backend.answer(**missing_outputs(_rows(one.search)))
            else:
                alike = one.search._replace(vectors=None)
                groups.setdefault(tuple(alike), []).append(place)
        for places in groups.values():
            some = [search for place in places if (search := asked[place].search) is not None]
            for place, answer in zip(places, self._search(some), strict=True):
                answers[place] = answer
        return answers

    def _state(self, asked: Asked) -> State:
        newest = self._newest
        if asked.part != self.part.key:
            error = f"the server has {self.part} of collection {self.part.uuid} now"
            return State(Loaded("", False, error), newest)
        if asked.version < 1:
            return State(Loaded(self.shard.name, True), newest)
        return State(self.shard.load(asked.version), newest)

    def _follow(self) -> None:
        """Look for new versions, as a store that is far away must not keep searches waiting; and check the scan."""
        remote = is_remote(self.backend.parameters["index"])
        told, checked = None, monotonic()
        while not self._ended.wait(_LOOK_STORE_S if remote else _LOOK_S):
            try:
                self._newest = self.shard.newest()
                told = None
            except Exception as failure:  # the thread must survive
                if told != (told := type(failure).__name__):
                    self.backend.log(f"new versions cannot be looked for: {told}")
            if monotonic() - checked > _CHECK_S:
                self._check()
                checked = monotonic()

    def _check(self) -> None:
        """Scan for a query with a known answer; a process that finds another one ends, and the server starts it again."""
        try:
            self.shard.check()
        except CareError as wrong:
            self.backend.log(str(wrong))
            _end(1)

    def _search(self, requests: Sequence[Request]) -> list[Any]:
        """Return the answers to requests that differ in their vectors alone."""
        vectors = np.concatenate([one.vectors for one in requests if one.vectors is not None])
        begun = perf_counter()
        found = self.shard.search(requests[0]._replace(vectors=vectors))
        self._seconds.add(perf_counter() - begun)
        if isinstance(found, Missing):
            return [self.backend.answer(**missing_outputs(_rows(one))) for one in requests]
        if isinstance(found, Refused):
            return [self.backend.refusal(CareError(found.message)) for _ in requests]
        self._queries.add(len(vectors))
        answers, start = [], 0
        for one in requests:
            own = Found(found.hits[start : start + _rows(one)], found.documents)
            start += _rows(one)
            raw = [[_json(hit) for hit in hits] for hits in own.hits]
            answers.append(self.backend.answer(**found_outputs(own, raw)))
        return answers


def _rows(request: Request) -> int:
    return 0 if request.vectors is None else len(request.vectors)


def _json(hit: Candidate) -> bytes:
    assert isinstance(hit.document, Document)
    return json_of(hit.document.row, hit.document.span)
