"""Training of dual encoders, from a recipe file (needs the extra ``train``)."""

from care_accel.training.recipe import Recipe, load_recipe
from care_accel.training.run import train

__all__ = ["Recipe", "load_recipe", "train"]
