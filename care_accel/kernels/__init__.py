"""Hidden states to embeddings: pooling, slicing and L2 normalisation, in PyTorch or in one Triton kernel."""

from care_accel.kernels.choice import embed
from care_accel.kernels.reference import ORDERS, POOLINGS, Order, Pooling, pool, pooled_position, project

__all__ = ["ORDERS", "POOLINGS", "Order", "Pooling", "embed", "pool", "pooled_position", "project"]
