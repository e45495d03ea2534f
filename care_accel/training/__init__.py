"""Training of dual encoders, from a recipe file (needs the extra ``train``)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from care_accel.training.recipe import Recipe
    from care_accel.training.recipe_file import load_recipe
    from care_accel.training.run import train

# Imported lazily: `care-accel --help` must not wait for torch.
_HOME_OF = {
    "Recipe": "care_accel.training.recipe",
    "load_recipe": "care_accel.training.recipe_file",
    "train": "care_accel.training.run",
}

__all__ = ["Recipe", "load_recipe", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'care_accel.training' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)
