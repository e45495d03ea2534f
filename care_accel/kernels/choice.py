"""Which of the two ways from hidden states to vectors is taken: the fused kernel, or plain PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from care_accel.kernels.reference import Order, Pooling, pool, project

if TYPE_CHECKING:
    import torch


def embed(
    hidden: torch.Tensor,
    mask: torch.Tensor,
    pooling: Pooling,
    order: Order,
    width: int,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Reduce the hidden states of each text to its finished vector.

    Parameters
    ----------
    hidden : torch.Tensor
        Hidden states of the last layer, ``[batch, tokens, hidden]``, any float dtype.
    mask : torch.Tensor
        Not 0 at a token, 0 at padding, ``[batch, tokens]``, any dtype.
    pooling : {"first", "last", "mean"}
    order : {"normalize-then-slice", "slice-then-normalize"}
    width : int
        How many leading values are kept, at most ``hidden``.
    dtype : torch.dtype, optional
        Of the result: float32 (the default), float16 or bfloat16. Whatever it is, sums are float32.

    Returns
    -------
    torch.Tensor
        ``[batch, width]``; see `pool` for rows that are all padding, and `project` for zero vectors.
    """
    import torch

    return project(pool(hidden, mask, pooling), width, order).to(dtype or torch.float32)
