"""From hidden states to vectors: pooling, slicing and normalising, in plain PyTorch or as one GPU kernel."""

from care_accel.kernels.choice import embed
from care_accel.kernels.reference import ORDERS, POOLINGS, Order, Pooling, pool, pooled_position, project

__all__ = ["ORDERS", "POOLINGS", "Order", "Pooling", "embed", "pool", "pooled_position", "project"]
