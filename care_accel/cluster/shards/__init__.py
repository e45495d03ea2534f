"""Search of a collection that no machine holds alone: shards that each scan a part, and a router that merges (Ray Serve)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from care_accel.cluster.shards.answers import Answer
    from care_accel.cluster.shards.router import Router
    from care_accel.cluster.shards.serving import ShardedCollection
    from care_accel.cluster.shards.shard import Shard

__all__ = ["Answer", "Router", "Shard", "ShardedCollection"]

_MODULES = {"Answer": "answers", "Router": "router", "Shard": "shard", "ShardedCollection": "serving"}


def __getattr__(name: str) -> Any:
    """Import what is asked for: a command line that only reads its options needs neither Lance nor Ray."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
