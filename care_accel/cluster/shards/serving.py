"""A collection that is searched through shards on a cluster."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from care_accel.cluster.connection import connected
from care_accel.cluster.shards.answers import Answer
from care_accel.cluster.shards.calls import DEFAULT, Limits
from care_accel.cluster.shards.deployment import ServeShard, delete, deploy, require_serve, running
from care_accel.cluster.shards.followed import FollowedTable
from care_accel.cluster.shards.router import Router
from care_accel.collection.storage import manifest as manifests
from care_accel.collection.storage.layout import is_remote
from care_accel.collection.storage.table import Table
from care_accel.encoding.base import BaseDualEncoder, checked_texts
from care_accel.errors import CareError, require_count

_T = TypeVar("_T")


class ShardedCollection:
    """A collection that is searched by shards on a Ray cluster: `search` gives the hits of `Collection.search`.

    Get one from `serve` or `connect`, and `close` it, or use it in a ``with`` statement. Several threads may search it.

    Attributes
    ----------
    uri : str
    shards, replicas : int
    """

    def __init__(
        self,
        uri: str,
        handles: Sequence[Any],
        replicas: int,
        model: Any,
        limits: Limits,
        leave: Any,
        storage_options: Mapping[str, str] | None = None,
    ) -> None:
        self.uri, self.shards, self.replicas = uri, len(handles), replicas
        self._leave = leave
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="router", daemon=True)
        self._thread.start()
        try:
            followed = FollowedTable(uri, storage_options)
            self.manifest = followed.manifest
            self._router = Router(followed, [ServeShard(handle, replicas) for handle in handles], limits)
            self.model: BaseDualEncoder = manifests.model_of(self.manifest, model, uri)
            self._run(self._router.start())
        except BaseException:
            self.close()
            raise

    @classmethod
    def serve(
        cls,
        uri: str | Path,
        *,
        cluster: str,
        shards: int,
        replicas: int = 1,
        gpus: float = 0.0,
        cpus: float = 1.0,
        model: BaseDualEncoder | str | Path | None = None,
        limits: Limits = DEFAULT,
        storage_options: Mapping[str, str] | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> Self:
        """Start the shards of a collection, or change those that run, and search them.

        They stay when this object is closed; `stop` ends them.

        Parameters
        ----------
        uri : str or Path
            Of the collection; all machines must see it there.
        cluster : str
            ``HOST:PORT`` of the cluster's head, or ``"auto"``.
        shards, replicas : int
            Parts of the collection, and processes that hold the same part.
        gpus, cpus : float
            Of one replica. With a GPU, the scan runs there.
        model, limits
            As in `Collection.open`, and how long to wait.
        storage_options : mapping of str to str, optional
            Of an object store, as in `Collection.open`. They go to the shards; what is missing each takes from its own
            environment.
        say : callable
            Called every ten seconds with what is waited for.

        Raises
        ------
        CareError
            Ray is not installed, the cluster cannot be reached or has no room, or the collection cannot be read there.
        """
        require_serve()
        for name, value in (("shards", shards), ("replicas", replicas)):
            require_count(name, value)
        place = _absolute(uri)
        options = None if storage_options is None else dict(storage_options)
        Table.open(place, None, options)  # a mistake is told before anything starts
        entered = connected(cluster)
        entered.__enter__()
        try:
            handles = deploy(
                place,
                shards,
                replicas,
                gpus=gpus,
                cpus=cpus,
                seconds=limits.start,
                storage_options=options,
                say=say,
            )
            return cls(place, handles, replicas, model, limits, entered, options)
        except BaseException:
            entered.__exit__(None, None, None)
            raise

    @classmethod
    def connect(
        cls,
        uri: str | Path,
        *,
        cluster: str,
        model: BaseDualEncoder | str | Path | None = None,
        limits: Limits = DEFAULT,
        storage_options: Mapping[str, str] | None = None,
    ) -> Self:
        """Search shards that run already; parameters and errors are those of `serve`."""
        require_serve()
        place = _absolute(uri)
        entered = connected(cluster)
        entered.__enter__()
        try:
            handles, replicas = running(place)
            return cls(place, handles, replicas, model, limits, entered, storage_options)
        except BaseException:
            entered.__exit__(None, None, None)
            raise

    @property
    def version(self) -> int:
        """The version that is searched."""
        return self._router.version

    @property
    def away(self) -> dict[int, str]:
        """Numbers of the shards that do not answer now, and why."""
        return self._router.away

    def search(
        self,
        queries: str | Sequence[str],
        k: int = 10,
        *,
        filter: str | None = None,
        group: bool = True,
        require_all: bool = True,
    ) -> Any:
        """Return the top k documents, exactly; parameters, hits and errors are those of `Collection.search`.

        Parameters
        ----------
        queries, k, filter, group
        require_all : bool
            Refuse a search while a shard does not answer. Otherwise use `answer`, which says what was searched.

        Raises
        ------
        CareError
            A shard does not answer, or as in `Collection.search`.
        """
        if not require_all:
            raise CareError("search gives hits alone, from all shards; for partial answers use answer")
        texts = [queries] if isinstance(queries, str) else list(queries)
        hits = self.answer(texts, k, filter=filter, group=group).hits
        return hits[0] if isinstance(queries, str) else hits

    def answer(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        filter: str | None = None,
        group: bool = True,
        require_all: bool = True,
    ) -> Answer:
        """Return hits, their version, and the share of the documents that were searched; see `search`."""
        require_count("k", k)
        texts = checked_texts(queries)
        vectors = self.model.encoder("query").encode(texts)
        return self.search_vectors(vectors, k, texts, filter=filter, group=group, require_all=require_all)

    def search_vectors(
        self,
        vectors: NDArray[np.float32],
        k: int = 10,
        queries: Sequence[str] | None = None,
        *,
        filter: str | None = None,
        group: bool = True,
        require_all: bool = True,
    ) -> Answer:
        """Search with encoded queries; see `Router.search`."""
        return self._run(
            self._router.search(vectors, k, queries, filter=filter, group=group, require_all=require_all)
        )

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def stop(self) -> None:
        """End the shards, and close this object."""
        delete(self.uri, self.shards)
        self.close()

    def close(self) -> None:
        """Leave the cluster; the shards stay."""
        router = getattr(self, "_router", None)
        if self._loop.is_running():
            if router is not None:
                self._run(router.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        if self._leave is not None:
            leave, self._leave = self._leave, None
            leave.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _absolute(uri: str | Path) -> str:
    return str(uri) if is_remote(str(uri)) else str(Path(uri).resolve())
