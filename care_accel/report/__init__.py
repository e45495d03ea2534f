"""HTML report of evaluation and benchmark results: accuracy, latency, and utilisation of hardware limits."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from care_accel.report.page import write_report

__all__ = ["write_report"]


def __getattr__(name: str) -> Any:
    # Lazy: imports the template engine.
    if name != "write_report":
        raise AttributeError(f"module 'care_accel.report' has no attribute {name!r}")
    return import_module("care_accel.report.page").write_report
