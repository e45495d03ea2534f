"""Exports encoders for faster runtimes, behind an accuracy gate."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from care_accel.export.gate import Gate, Limits, Metrics
    from care_accel.export.run import export
    from care_accel.export.texts import DevSet

_HOME_OF = {"Gate": "gate", "Limits": "gate", "Metrics": "gate", "DevSet": "texts", "export": "run"}

__all__ = ["DevSet", "Gate", "Limits", "Metrics", "export"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'care_accel.export' has no attribute {name!r}")
    return getattr(import_module(f"care_accel.export.{_HOME_OF[name]}"), name)
