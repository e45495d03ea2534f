"""Encoders in the forms that faster runtimes take, each behind an accuracy gate."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from care_accel.export.gate import Figures, Gate, Limits
    from care_accel.export.run import export
    from care_accel.export.texts import DevSet

_HOME_OF = {"Figures": "gate", "Gate": "gate", "Limits": "gate", "DevSet": "texts", "export": "run"}

__all__ = ["DevSet", "Figures", "Gate", "Limits", "export"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'care_accel.export' has no attribute {name!r}")
    return getattr(import_module(f"care_accel.export.{_HOME_OF[name]}"), name)
