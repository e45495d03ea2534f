"""Collections past one machine: on Ray (extra ``cluster``) a corpus is encoded by workers and searched by shards.

Shards can be inference servers instead, without Ray (`care_accel.cluster.servers`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from care_accel.cluster.encode import encode_corpus
    from care_accel.cluster.plan import Reading
    from care_accel.cluster.progress import Encoded
    from care_accel.cluster.shards.serving import ShardedCollection

__all__ = ["Encoded", "Reading", "ShardedCollection", "encode_corpus"]

_MODULES = {
    "encode_corpus": "encode",
    "Reading": "plan",
    "Encoded": "progress",
    "ShardedCollection": "shards.serving",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: a command line that only reads its options needs neither Lance nor Arrow."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
