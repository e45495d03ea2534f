"""What a pickle of an encoder holds: where its files are, its options, and the hash of its files; never weights.

It is opened by loading the files again, in the same process or another one. Files that changed are refused: those of the
same sizes and times as before are taken as they are and hashed when their network is loaded, others at once.
"""

from __future__ import annotations

import copyreg
import dataclasses
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from care_accel.encoding.loading.sources import Source
from care_accel.encoding.runtimes import Runtime
from care_accel.errors import CareError

Signature = tuple[tuple[str, int, int], ...]


class Origin(Protocol):
    """How an encoder was loaded; a pickle of it holds no weights."""

    def load(self) -> Any:
        """Load the encoder again."""
        ...

    def load_runtime(self) -> Runtime:
        """Load the encoder again, and return its runtime."""
        ...


def pinned(source: Source, loaded: Signature) -> Source:
    """Return a source with the hash of its files, for a pickle.

    Parameters
    ----------
    source : Source
    loaded : tuple
        `Checkpoint.signature` when the encoder was loaded, or now if it was not.

    Raises
    ------
    CareError
        The files changed since: the pickle would hold another model than the one in memory.
    """
    checkpoint = source.checkpoint
    if checkpoint.signature != loaded:
        raise CareError(
            f"{checkpoint.folder}: its files changed since the model was loaded; load it again with from_pretrained, and "
            "pickle that"
        )
    recorded = source.recorded or checkpoint.fingerprint
    return dataclasses.replace(source, recorded=recorded, pickled=source.recorded is None or source.pickled)


def check_pinned(source: Source, loaded: Signature) -> None:
    """Refuse the files of a pickled encoder if they changed.

    Raises
    ------
    CareError
        They have another hash, or are gone.
    """
    if source.checkpoint.signature != loaded:  # changed, or copied to this machine
        source.verify()


_ORIGINS: WeakKeyDictionary[Runtime, Origin] = WeakKeyDictionary()


def remember(runtime: Runtime, origin: Origin) -> None:
    """Let a runtime be pickled by itself: by the origin of its encoder."""
    _ORIGINS[runtime] = origin
    copyreg.pickle(type(runtime), _reduce_runtime)


def _reduce_runtime(runtime: Any) -> tuple[Callable[[], Runtime], tuple[()]]:
    origin = _ORIGINS.get(runtime)
    if origin is None:
        raise CareError(
            f"this {type(runtime).__name__} was not loaded from a folder, so that a pickle cannot say where it is; "
            "pickle a model of DualEncoder.from_pretrained"
        )
    return origin.load_runtime, ()
