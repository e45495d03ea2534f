"""Vectors, or words, to hits."""

from care_accel.index.exact import ExactIndex

__all__ = ["ExactIndex"]
