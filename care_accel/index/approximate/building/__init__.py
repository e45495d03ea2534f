"""Builds an approximate index: what was asked for, the queries, the search for settings, and the choice."""

from care_accel.index.approximate.building.request import Request
from care_accel.index.approximate.building.run import build, data_hash

__all__ = ["Request", "build", "data_hash"]
