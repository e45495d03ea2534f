"""How a router calls its shards: limits, and what goes wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from care_accel.cluster.shards.answers import Newest
from care_accel.errors import CareError


class ShardGone(Exception):
    """The replica that was asked has died, or cannot be reached."""


class ShardFailed(CareError):
    """A replica has failed at a request that is no mistake of its sender."""


class ShardAway(CareError):
    """No replica of a shard answers."""


class ShardCalls(Protocol):
    """One shard as its router sees it: any of its replicas may answer."""

    @property
    def replicas(self) -> int:
        """How many processes have the shard."""

    async def call(self, method: str, *arguments: Any) -> Any:
        """Return what a method of `Shard` returns.

        Raises
        ------
        ShardGone
            The replica has died, or there is none.
        """


class Followed(Protocol):
    """A collection as the router of its shards knows it."""

    @property
    def lexical(self) -> bool:
        """Whether it has a lexical index."""

    async def newest(self) -> Newest:
        """Return its newest version."""


@dataclass(frozen=True)
class Limits:
    """How long a router waits, in seconds.

    Attributes
    ----------
    shard : float
        For a shard, attempts at other replicas included; then it is away.
    hedge : float
        For a replica, before another one is asked too; the first answer counts.
    refresh : float
        Between two looks at the collection for a newer version.
    settle : float
        For replicas that do not say that they have a new version, after one of each shard has it.
    start : float
        For all shards to have their first version.
    """

    shard: float = 10.0
    hedge: float = 1.0
    refresh: float = 2.0
    settle: float = 15.0
    start: float = 1800.0


DEFAULT = Limits()
