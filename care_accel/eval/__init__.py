"""Evaluation with mteb's metrics, on CMedTEB and on local data folders (needs the extra ``eval``)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from care_accel.eval.mteb_model import MtebModel, as_mteb
    from care_accel.eval.run import evaluate
    from care_accel.eval.tasks import cmedteb, folder_tasks

# mteb takes seconds to import; command-line errors are reported before that.
_HOME_OF = {
    "MtebModel": "care_accel.eval.mteb_model",
    "as_mteb": "care_accel.eval.mteb_model",
    "cmedteb": "care_accel.eval.tasks",
    "evaluate": "care_accel.eval.run",
    "folder_tasks": "care_accel.eval.tasks",
}

__all__ = ["MtebModel", "as_mteb", "cmedteb", "evaluate", "folder_tasks"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'care_accel.eval' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)
