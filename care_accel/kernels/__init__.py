"""From hidden states to vectors: pooling, slicing and normalising."""

from care_accel.kernels.reference import ORDERS, POOLINGS, Order, Pooling, pool, project

__all__ = ["ORDERS", "POOLINGS", "Order", "Pooling", "pool", "project"]
