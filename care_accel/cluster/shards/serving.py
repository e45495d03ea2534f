"""Shards as deployments of Ray Serve, and a collection that is searched through them."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from care_accel.cluster.connection import connected, first_line
from care_accel.cluster.shards.answers import Answer
from care_accel.cluster.shards.calls import DEFAULT, Limits, ShardGone
from care_accel.cluster.shards.router import Router
from care_accel.cluster.shards.shard import Shard
from care_accel.collection.storage import manifest as manifests
from care_accel.collection.storage.layout import is_remote
from care_accel.collection.storage.table import Table
from care_accel.encoding.base import BaseDualEncoder, checked_texts
from care_accel.errors import CareError, require_count
from care_accel.version import __version__

_T = TypeVar("_T")
# Searches that wait in one replica; more wait in the router.
_ONGOING = 64
_HEALTH_SECONDS = 5.0


def require_serve() -> None:
    """Check that Ray Serve is installed.

    Raises
    ------
    CareError
        It is not; the message names the extra.
    """
    # grpc_reflection stands for what ray[serve] installs besides Ray.
    if find_spec("ray") is None or find_spec("grpc_reflection") is None:
        raise CareError(
            "searching shards on a cluster needs the package ray[serve]: pip install 'care-accel[cluster]'"
        )


class ShardReplica:
    """A replica of a shard as Ray Serve runs it; see `Shard` for its methods."""

    def __init__(
        self, uri: str, number: int, of: int, device: str, threads: int | None, version: str
    ) -> None:
        if version != __version__:
            raise CareError(
                f"the replica has care-accel {__version__}, the router {version}; install one on all machines"
            )
        self._shard = Shard(uri, number, of, device=device, threads=threads)

    async def load(self, version: int) -> Any:
        """Begin to load a version, and tell whether it is there."""
        return await asyncio.to_thread(self._shard.load, version)

    async def search(self, request: Any) -> Any:
        """Search a version."""
        return await asyncio.to_thread(self._shard.search, request)

    async def documents(self, version: int, positions: Sequence[int]) -> Any:
        """Return documents at positions."""
        return await asyncio.to_thread(self._shard.documents, version, positions)

    async def check_health(self) -> None:
        """Scan for a query with a known answer; a replica that fails is replaced by Ray Serve."""
        await asyncio.to_thread(self._shard.check)


class ServeShard:
    """A shard's replicas on Ray Serve, as `Router` calls them.

    Parameters
    ----------
    handle : ray.serve.handle.DeploymentHandle
    replicas : int
    """

    def __init__(self, handle: Any, replicas: int) -> None:
        from ray.exceptions import RayError, RayTaskError
        from ray.serve.exceptions import RayServeException

        # By gRPC between the processes: twice as fast as through Ray's object store.
        self._handle = handle.options(_by_reference=False)
        self.replicas = replicas
        self._failed, self._gone = RayTaskError, (RayError, RayServeException, ConnectionError)

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of any replica.

        Raises
        ------
        ShardGone
            The replica has died, or there is none.
        CareError
            The method failed in a way that no other replica would mend.
        """
        try:
            return await getattr(self._handle, method).remote(*arguments)
        except self._failed as cause:
            raise CareError(f"a shard failed: {first_line(getattr(cause, 'cause', None) or cause)}") from None
        except self._gone as cause:
            raise ShardGone(first_line(cause)) from None


class ShardedCollection:
    """A collection that is searched by shards on a Ray cluster: `search` gives the hits of `Collection.search`.

    Get one from `serve` or `connect`, and `close` it, or use it in a ``with`` statement. Several threads may search it.

    Attributes
    ----------
    uri : str
    shards, replicas : int
    """

    def __init__(
        self, uri: str, handles: Sequence[Any], replicas: int, model: Any, limits: Limits, leave: Any
    ) -> None:
        self.uri, self.shards, self.replicas = uri, len(handles), replicas
        self._leave = leave
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="router", daemon=True)
        self._thread.start()
        try:
            self._router = Router(uri, [ServeShard(handle, replicas) for handle in handles], limits)
            self.manifest = self._router.manifest
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

        Raises
        ------
        CareError
            Ray is not installed, the cluster cannot be reached or has no room, or the collection cannot be read there.
        """
        require_serve()
        for name, value in (("shards", shards), ("replicas", replicas)):
            require_count(name, value)
        place = _absolute(uri)
        Table.open(place)  # a mistake is told before anything starts
        entered = connected(cluster)
        entered.__enter__()
        try:
            handles = _deploy(place, shards, replicas, gpus, cpus)
            return cls(place, handles, replicas, model, limits, entered)
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
    ) -> Self:
        """Search shards that run already; parameters and errors are those of `serve`."""
        require_serve()
        place = _absolute(uri)
        entered = connected(cluster)
        entered.__enter__()
        try:
            handles, replicas = _running(place)
            return cls(place, handles, replicas, model, limits, entered)
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
        from ray import serve

        with suppress(Exception):  # of a cluster that is gone
            for number in range(self.shards):
                serve.delete(_name(self.uri, number, self.shards), _blocking=False)
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


def _prefix(uri: str) -> str:
    return f"care-{hashlib.sha256(uri.encode()).hexdigest()[:12]}"


def _name(uri: str, number: int, of: int) -> str:
    return f"{_prefix(uri)}-{number}-of-{of}"


def _deploy(uri: str, shards: int, replicas: int, gpus: float, cpus: float) -> list[Any]:
    """Run an application a shard; return their handles."""
    import ray
    from ray import serve

    # The router is in this process: nothing listens for HTTP.
    serve.start(proxy_location="Disabled")
    nodes = sum(bool(node["Alive"]) for node in ray.nodes())
    options: dict[str, Any] = {
        "num_replicas": replicas,
        "max_ongoing_requests": _ONGOING,
        "health_check_period_s": _HEALTH_SECONDS,
        "ray_actor_options": {"num_cpus": cpus, "num_gpus": gpus},
    }
    if 1 < replicas <= nodes:  # a machine that is lost takes one replica of a shard with it
        options["max_replicas_per_node"] = 1
    device, threads = ("cuda" if gpus else "cpu"), max(int(cpus), 1)
    targets = [
        serve.RunTarget(
            serve.deployment(ShardReplica, name="shard", **options).bind(
                uri, number, shards, device, threads, __version__
            ),
            name=_name(uri, number, shards),
            route_prefix=None,
        )
        for number in range(shards)
    ]
    with _serve_errors(uri):
        handles = list(serve.run_many(targets))
    names = {target.name for target in targets}
    for name in serve.status().applications:
        if name.startswith(f"{_prefix(uri)}-") and name not in names:  # of another number of shards
            serve.delete(name, _blocking=False)
    return handles


def _running(uri: str) -> tuple[list[Any], int]:
    """Return handles and replicas of the shards that run."""
    from ray import serve

    names = [name for name in serve.status().applications if name.startswith(f"{_prefix(uri)}-")]
    if not names:
        raise CareError(
            f"{uri} is not served on this cluster; start its shards with care-accel serve --cluster"
        )
    shards = {int(name.rsplit("-", 1)[1]) for name in names}
    if len(shards) > 1 or len(names) != max(shards):
        raise CareError(f"{uri} is served with several numbers of shards; start it again with one")
    of = shards.pop()
    handles = [serve.get_app_handle(_name(uri, number, of)) for number in range(of)]
    from ray.serve.schema import ApplicationStatusOverview

    found: ApplicationStatusOverview = serve.status().applications[_name(uri, 0, of)]
    return handles, sum(found.deployments["shard"].replica_states.values())


@contextmanager
def _serve_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, TimeoutError) as cause:
        from ray import serve

        reasons = [
            status.message
            for name, found in serve.status().applications.items()
            if name.startswith(_prefix(uri))
            for status in found.deployments.values()
            if status.message
        ]
        raise CareError(f"the shards of {uri} cannot start: {_why([*reasons, str(cause)])}") from None


def _why(messages: Sequence[str]) -> str:
    """Return the line of a remote traceback that says what is wrong."""
    for message in messages:
        lines = [line.strip() for line in message.splitlines() if "CareError: " in line]
        if lines:
            return lines[-1].split("CareError: ", 1)[1][:300]
    return first_line(RuntimeError(messages[0]))
