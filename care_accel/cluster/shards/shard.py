"""One of the parts of a collection that are searched together: it scans its rows at the version that it is asked for."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, NamedTuple

import numpy as np

from care_accel.cluster.shards.answers import (
    Candidate,
    Document,
    Found,
    Loaded,
    Missing,
    Newest,
    Refused,
    Request,
)
from care_accel.cluster.shards.followed import FollowedTable
from care_accel.collection.storage import manifest as manifests
from care_accel.collection.storage.schema import vectors_of
from care_accel.collection.storage.table import VECTOR, Table
from care_accel.collection.storage.table_part import TablePart
from care_accel.collection.versions.parts import open_part
from care_accel.collection.versions.ranking import Ranked
from care_accel.collection.versions.searching import Searcher
from care_accel.collection.versions.snapshot import Snapshot
from care_accel.errors import CareError, VersionRemoved

# A version is kept so long after it was last searched, while there is a newer one.
_KEPT_SECONDS = 30.0
_CANARY_TOLERANCE = 1e-4


class _Canary(NamedTuple):
    """A query with its known answer: the vector of a row, and the place and score of the best hit."""

    query: np.ndarray[Any, Any]
    position: int
    score: float


@dataclass
class _Version:
    searcher: Searcher
    snapshot: Snapshot
    documents: int
    canary: _Canary | None
    asked: float = field(default_factory=monotonic)


class Shard:
    """A part of a collection; it holds one version, or two while a new one goes live.

    Parameters
    ----------
    uri : str
        Of the collection.
    number : int
        Of the shard, from 0.
    of : int
        Number of shards.
    device : str
        Where the scan runs, as in `ExactIndex`.
    threads : int, optional
        Threads of a search.
    storage_options : mapping of str to str, optional
        Of an object store, as in `Collection.open`.

    Attributes
    ----------
    name : str
        Of this process's copy of the shard.
    manifest : Manifest
        Of the collection.

    Raises
    ------
    CareError
        The collection cannot be read, or there is no such shard.
    """

    def __init__(
        self,
        uri: str,
        number: int,
        of: int,
        *,
        device: str = "cpu",
        threads: int | None = None,
        storage_options: Mapping[str, str] | None = None,
    ) -> None:
        self._uri, self._number, self._of = uri, number, of
        self._storage_options = None if storage_options is None else dict(storage_options)
        self._followed = FollowedTable(uri, storage_options)
        self.manifest = self._followed.manifest
        self._options: dict[str, Any] = {"device": device, "threads": threads}
        self._versions: dict[int, _Version] = {}
        self._loading: set[int] = set()
        self._errors: dict[int, str] = {}
        self._changing = threading.Lock()
        self._one_load = threading.Lock()
        self.name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._load(None)

    def newest(self) -> Newest:
        """Return the newest version of the collection, which need not be loaded."""
        return self._followed.look()

    def load(self, version: int) -> Loaded:
        """Begin to load a version if it is not there; return whether it is."""
        with self._changing:
            ready = version in self._versions
            error = self._errors.get(version, "")
            begin = not ready and version not in self._loading
            if begin:
                self._loading.add(version)
        if begin:
            threading.Thread(target=self._load_later, args=(version,), daemon=True).start()
        return Loaded(self.name, ready, "" if ready else error)

    def _load_later(self, version: int) -> None:
        try:
            self._load(version)
            with self._changing:
                self._errors.pop(version, None)
        except Exception as cause:
            with self._changing:
                self._errors[version] = str(cause) or type(cause).__name__
        finally:
            with self._changing:
                self._loading.discard(version)

    def _load(self, version: int | None) -> None:
        with self._one_load:
            table = Table.open(self._uri, version, self._storage_options)
            with self._changing:
                if table.version in self._versions:
                    return
                held = dict(self._versions)
            before = None
            if held:
                before = held[min(held, key=lambda number: abs(number - table.version))].snapshot
            manifest = manifests.read(table.metadata, table.uri)
            if manifest.uuid != self.manifest.uuid:
                raise CareError(f"{self._uri} is another collection now; start its shards again")
            part = TablePart(table, self._number, self._of)
            searcher, snapshot = open_part(part, manifest, before, **self._options)
            made = _Version(searcher, snapshot, part.documents, _canary(searcher))
            with self._changing:
                self._versions[table.version] = made
                self._drop(table.version)

    def _drop(self, newest: int) -> None:
        """Drop versions that nobody has searched for a while; one of them stays, besides the newest."""
        old = sorted(
            (number for number in self._versions if number != newest),
            key=lambda number: self._versions[number].asked,
        )
        for number in old[:-1]:
            del self._versions[number]

    def _at(self, version: int) -> _Version | None:
        with self._changing:
            found = self._versions.get(version)
            if found is None:
                return None
            found.asked = now = monotonic()
            if version == max(self._versions):
                for number in [n for n, v in self._versions.items() if now - v.asked > _KEPT_SECONDS]:
                    del self._versions[number]
        return found

    def search(self, request: Request) -> Found | Missing | Refused:
        """Return the shard's best hits of some queries.

        Parameters
        ----------
        request : Request

        Returns
        -------
        Found
            `Missing` if the version is not there, or was removed from the table and a filter needs it; `Refused` if the filter
            is wrong.
        """
        held = self._at(request.version)
        if held is None:
            self.load(request.version)
            return Missing(request.version)
        searcher = held.searcher
        statistics = None
        try:
            if request.vectors is not None:
                ranked = searcher.rank_vectors(
                    request.vectors, request.k, filter=request.filter, group=request.group
                )
                if request.queries and searcher.snapshot.lexical is not None:
                    statistics = searcher.snapshot.lexical.statistics(request.queries)
            else:
                ranked = searcher.rank_words(
                    request.queries,
                    request.k,
                    filter=request.filter,
                    group=request.group,
                    statistics=request.statistics,
                )
        except VersionRemoved:  # as by `compact`: no mistake of who asks, and there is a newer one
            return Missing(request.version)
        except CareError as mistake:
            return Refused(str(mistake))
        hits = [_candidates(searcher, row, documents=request.documents) for row in ranked]
        return Found(hits, held.documents, statistics)

    def documents(self, version: int, positions: Sequence[int]) -> list[Document] | Missing:
        """Return the documents at positions of a version."""
        held = self._at(version)
        if held is None:
            self.load(version)
            return Missing(version)
        return [_document(held.searcher, position) for position in positions]

    def check(self) -> None:
        """Scan for a query whose answer is known, in each version.

        Raises
        ------
        CareError
            The scan has found something else.
        """
        with self._changing:
            held = dict(self._versions)
        for version, one in held.items():
            if one.canary is None:
                continue
            found = one.searcher.rank_vectors(one.canary.query, 1)[0]
            if not found or tuple(found[0]) != (one.canary.position, one.canary.score):
                raise CareError(
                    f"shard {self._number} of {self._of}, version {version}: the scan does not find what it found when it was "
                    "loaded; the shard is started again"
                )


def _candidates(searcher: Searcher, row: Sequence[Ranked], *, documents: bool) -> list[Candidate]:
    names = searcher.names([hit.position for hit in row])
    return [
        Candidate(
            name, chunk, hit.score, hit.position, _document(searcher, hit.position) if documents else None
        )
        for (name, chunk), hit in zip(names, row, strict=True)
    ]


def _document(searcher: Searcher, position: int) -> Document:
    _, row, span = searcher.document(position)
    return Document(row, span)


def _canary(searcher: Searcher) -> _Canary | None:
    """Return a query and its answer: a row's own vector finds the row, or one that is as near.

    Raises
    ------
    CareError
        It does not.
    """
    first = next(searcher.table.batches([VECTOR], batch_size=1), None)
    if first is None or not len(first):
        return None
    query = np.array(vectors_of(first[VECTOR])[:1], np.float32)
    best = searcher.rank_vectors(query, 1)[0]
    least = float(query[0].astype(np.float64) @ query[0])
    if not best or not best[0].score >= least - _CANARY_TOLERANCE:
        raise CareError("the scan does not find a vector of its own index; look at the machine")
    return _Canary(query, *best[0])
