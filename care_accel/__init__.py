"""care_accel: asymmetric Chinese medical retrieval, fast, exact and measured.

The public names are loaded when first used, so that ``import care_accel`` stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from care_accel.version import __version__ as __version__

if TYPE_CHECKING:
    from care_accel.collection import Collection
    from care_accel.encoding import DualEncoder, EncoderSpec
    from care_accel.errors import CareError
    from care_accel.index import ApproximateIndex, ExactIndex
    from care_accel.retriever import Hit, Retriever

_HOME_OF = {
    "ApproximateIndex": "care_accel.index",
    "CareError": "care_accel.errors",
    "Collection": "care_accel.collection",
    "DualEncoder": "care_accel.encoding",
    "EncoderSpec": "care_accel.encoding",
    "ExactIndex": "care_accel.index",
    "Hit": "care_accel.retriever",
    "Retriever": "care_accel.retriever",
}

__all__ = [
    "ApproximateIndex",
    "CareError",
    "Collection",
    "DualEncoder",
    "EncoderSpec",
    "ExactIndex",
    "Hit",
    "Retriever",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'care_accel' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
