"""Documents in a collection on disk that changes: own ids, fields, filters, chunks, versions."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from care_accel.collection.collection import Collection
    from care_accel.collection.writing import Upserted

_HOME_OF = {"Collection": "collection", "Upserted": "writing"}

__all__ = ["Collection", "Upserted"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    except ModuleNotFoundError as missing:
        if missing.name not in ("pyarrow", "lance"):
            raise
        from care_accel.errors import CareError

        raise CareError(
            "a collection needs the package pylance: pip install 'care-accel[collection]'"
        ) from None
