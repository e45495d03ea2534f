"""Shards as deployments of Ray Serve: one application a shard, so many replicas each."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from time import monotonic, sleep
from typing import Any

from care_accel.cluster.connection import first_line
from care_accel.cluster.shards.calls import ShardFailed, ShardGone
from care_accel.cluster.shards.shard import Shard
from care_accel.errors import CareError
from care_accel.version import __version__

# Searches that wait in one replica; more wait in the router.
_ONGOING = 64
_HEALTH_SECONDS = 5.0
_TURN_SECONDS, _TELL_SECONDS = 0.3, 10.0


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
        self,
        uri: str,
        number: int,
        of: int,
        device: str,
        threads: int | None,
        version: str,
        storage_options: Mapping[str, str] | None = None,
    ) -> None:
        if version != __version__:
            raise CareError(
                f"the replica has care-accel {__version__}, the router {version}; install one on all machines"
            )
        self._shard = Shard(uri, number, of, device=device, threads=threads, storage_options=storage_options)

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
        ShardFailed
            The method has raised an error.
        """
        try:
            return await getattr(self._handle, method).remote(*arguments)
        except self._failed as cause:
            raise ShardFailed(
                f"a shard failed: {first_line(getattr(cause, 'cause', None) or cause)}"
            ) from None
        except self._gone as cause:
            raise ShardGone(first_line(cause)) from None


def _prefix(uri: str) -> str:
    return f"care-{hashlib.sha256(uri.encode()).hexdigest()[:12]}"


def _name(uri: str, number: int, of: int) -> str:
    return f"{_prefix(uri)}-{number}-of-{of}"


def deploy(
    uri: str,
    shards: int,
    replicas: int,
    *,
    gpus: float,
    cpus: float,
    seconds: float,
    storage_options: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Any]:
    """Start the shards of a collection, or change those that run; return their handles.

    Parameters
    ----------
    uri : str
    shards, replicas : int
    gpus, cpus : float
        Of one replica.
    seconds : float
        Limit until all run.
    storage_options : mapping of str to str, optional
        Of an object store, as in `Collection.open`.
    say : callable
        Called every ten seconds with what is waited for.

    Raises
    ------
    CareError
        A replica cannot start, or finds no place in time. The shards are ended then.
    """
    import ray
    from ray import serve

    # The router is in this process: nothing listens for HTTP.
    serve.start(proxy_location="Disabled")
    needs = {"CPU": cpus, "GPU": gpus}
    nodes = sum(
        bool(node["Alive"]) and all(node["Resources"].get(name, 0) >= need for name, need in needs.items())
        for node in ray.nodes()
    )
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
                uri, number, shards, device, threads, __version__, storage_options
            ),
            name=_name(uri, number, shards),
            route_prefix=None,
        )
        for number in range(shards)
    ]
    names = [target.name for target in targets]
    try:
        serve.run_many(
            targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False
        )
        _wait(uri, names, replicas, needs, seconds, say)
        handles = [serve.get_app_handle(name) for name in names]
    except BaseException:
        delete(uri, shards)
        raise
    for name in serve.status().applications:
        if name.startswith(f"{_prefix(uri)}-") and name not in names:  # of another number of shards
            serve.delete(name, _blocking=False)
    return handles


def running(uri: str) -> tuple[list[Any], int]:
    """Return the handles of the shards of a collection that run, and the number of replicas of each.

    Raises
    ------
    CareError
        None run.
    """
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


def _wait(
    uri: str,
    names: Sequence[str],
    replicas: int,
    needs: Mapping[str, float],
    seconds: float,
    say: Callable[[str], None],
) -> None:
    """Wait until all applications run."""
    import ray
    from ray import serve

    end = monotonic() + seconds
    told = monotonic()
    while True:
        known = serve.status().applications
        found = [known[name] for name in names if name in known]
        stages = [one.status for one in found]
        if len(found) == len(names) and all(stage == "RUNNING" for stage in stages):
            return
        messages = [status.message for one in found for status in one.deployments.values() if status.message]
        if "DEPLOY_FAILED" in stages or "UNHEALTHY" in stages:
            messages += [one.message for one in found if one.message]
            raise CareError(f"the shards of {uri} cannot start: {_why(messages)}")
        ready = sum(
            one.deployments["shard"].replica_states.get("RUNNING", 0) for one in found if one.deployments
        )
        waiting = f"{ready} of {len(names) * replicas} replicas run"
        if monotonic() > end:
            has = ray.cluster_resources()
            need = ", ".join(f"{value:g} {name}" for name, value in needs.items() if value)
            raise CareError(
                f"{waiting} after {seconds:g} s: one needs {need}, the cluster has {has.get('CPU', 0):g} CPU, "
                f"{has.get('GPU', 0):g} GPU; add nodes, ask for less, or wait longer"
            )
        if monotonic() - told > _TELL_SECONDS:
            say(waiting)
            told = monotonic()
        sleep(_TURN_SECONDS)


def _why(messages: Sequence[str]) -> str:
    """Return the line of a remote traceback that says what is wrong."""
    for message in messages:
        lines = [line.strip() for line in message.splitlines() if "CareError: " in line]
        if lines:
            return lines[-1].split("CareError: ", 1)[1][:300]
    return first_line(RuntimeError(messages[0] if messages else "look at Ray's logs"))


def delete(uri: str, shards: int) -> None:
    """End the shards of a collection."""
    from ray import serve

    with suppress(Exception):  # of a cluster that is gone
        for number in range(shards):
            serve.delete(_name(uri, number, shards), _blocking=False)
