"""Approximate search that is asked for a recall, and proves it."""

from care_accel.index.approximate.approximate_index import ApproximateIndex
from care_accel.index.approximate.choice import Choice, Measured, Tried
from care_accel.index.approximate.watching import RecallWatch

__all__ = ["ApproximateIndex", "Choice", "Measured", "RecallWatch", "Tried"]
