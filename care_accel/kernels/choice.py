"""Which of the two ways from hidden states to vectors is taken: the fused kernel, or plain PyTorch."""

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
    """Reduce the hidden states of each text to its finished vector.

    The fused kernel does it on a GPU; plain PyTorch elsewhere, where a gradient is asked for, and in exports, which
    know no custom operator.

    Parameters
    ----------
    hidden : torch.Tensor
        Hidden states of the last layer, ``[batch, tokens, hidden]``, any float dtype, any strides.
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

    Raises
    ------
    ValueError
        An unknown pooling or order, or a width that the hidden states do not have.
    """
    import torch

    if pooling not in POOLINGS or order not in ORDERS:
        raise ValueError(
            f"pooling {pooling!r} and order {order!r}: choose one of {POOLINGS} and one of {ORDERS}"
        )
    if not 0 < width <= hidden.shape[2]:
        raise ValueError(f"width is {width}; the hidden states have {hidden.shape[2]} values")
    dtype = dtype or torch.float32
    differentiated = hidden.requires_grad and torch.is_grad_enabled()
    if hidden.is_cuda and _TRITON and not differentiated and not torch.compiler.is_exporting():
        from care_accel.kernels import fused

        return fused.embed(hidden, mask, pooling, order, width, dtype)
    return project(pool(hidden, mask, pooling), width, order).to(dtype)
