"""Chooses between the fused Triton kernel and PyTorch."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from care_accel.kernels.reference import ORDERS, POOLINGS, Order, Pooling, pool, project

if TYPE_CHECKING:
    import torch

_TRITON = find_spec("triton") is not None


def embed(
    hidden: torch.Tensor,
    mask: torch.Tensor,
    pooling: Pooling,
    order: Order,
    width: int,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Pool, slice and L2-normalise hidden states into one embedding per text.

    Runs the fused Triton kernel on a GPU. Runs PyTorch on the CPU, when a gradient is required, and during export,
    because exported graphs cannot hold a custom operator.

    Parameters
    ----------
    hidden : torch.Tensor
        Hidden states of the last layer, ``[batch, tokens, hidden]``, any float dtype, any strides.
    mask : torch.Tensor
        Attention mask ``[batch, tokens]``, any dtype: 0 at padding, anything else at a token.
    pooling : {"first", "last", "mean"}
    order : {"normalize-then-slice", "slice-then-normalize"}
    width : int
        Embedding dimension: the number of leading values kept, at most ``hidden``.
    dtype : torch.dtype, optional
        Output dtype: float32 (the default), float16 or bfloat16. Sums are always float32.

    Returns
    -------
    torch.Tensor
        ``[batch, width]``; see `pool` for rows that are all padding, and `project` for zero vectors.

    Raises
    ------
    ValueError
        The pooling or the order is unknown, or the width exceeds the hidden size.
    """
    import torch

    if pooling not in POOLINGS or order not in ORDERS:
        raise ValueError(
            f"pooling is {pooling!r} and order is {order!r}; choose pooling from {POOLINGS} and order from {ORDERS}"
        )
    if not 0 < width <= hidden.shape[2]:
        raise ValueError(f"width is {width}; it must be between 1 and the hidden size, {hidden.shape[2]}")
    dtype = dtype or torch.float32
    needs_gradient = hidden.requires_grad and torch.is_grad_enabled()
    if hidden.is_cuda and _TRITON and not needs_gradient and not torch.compiler.is_exporting():
        from care_accel.kernels import fused

        return fused.embed(hidden, mask, pooling, order, width, dtype)
    return project(pool(hidden, mask, pooling), width, order).to(dtype)
