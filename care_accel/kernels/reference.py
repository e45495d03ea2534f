"""Pooling, slicing and normalising in plain PyTorch: what every faster path is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import torch

Pooling = Literal["first", "last", "mean"]
Order = Literal["normalize-then-slice", "slice-then-normalize"]

POOLINGS: tuple[str, ...] = get_args(Pooling)
ORDERS: tuple[str, ...] = get_args(Order)


def pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Reduce the hidden states of each text to one vector, whichever side its padding is on.

    Parameters
    ----------
    hidden : torch.Tensor
        Hidden states of the last layer, ``[batch, tokens, hidden]``, any float dtype.
    mask : torch.Tensor
        Not 0 at a token, 0 at padding, ``[batch, tokens]``, any dtype.
    pooling : {"first", "last", "mean"}
        The token kept, or the mean over all tokens.

    Returns
    -------
    torch.Tensor
        float32 ``[batch, hidden]``. What stands at padding, NaN included, does not matter. A row that is all
        padding has the state at position 0 for ``first``, at the last position for ``last``, NaN for ``mean``.
    """
    import torch

    if pooling == "mean":
        tokens = (mask != 0).unsqueeze(-1)
        kept = torch.where(tokens, hidden.to(torch.float32), 0.0)
        return kept.sum(dim=1) / tokens.sum(dim=1)
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    return hidden[rows, pooled_position(mask, pooling)].to(torch.float32)


def pooled_position(mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Return where the pooled token of each row is: int64 ``[batch]``, for ``first`` and ``last`` pooling.

    In a row that is all padding: 0 for ``first``, the last position for ``last``.
    """
    import torch

    # argmax takes the first of equals; bool has none on some devices.
    if pooling == "first":
        return (mask != 0).to(torch.int32).argmax(dim=1)
    if pooling == "last":
        return mask.shape[1] - 1 - (mask != 0).to(torch.int32).flip(1).argmax(dim=1)
    raise ValueError(f"unknown pooling {pooling!r}: choose one of {', '.join(POOLINGS)}")


def project(pooled: torch.Tensor, width: int, order: Order) -> torch.Tensor:
    """Slice vectors to their first ``width`` values and L2-normalise them, in a named order.

    ``"normalize-then-slice"`` is CARE's order (paper.md, "Order of operations"): the norm is that of
    the FULL vector and there is no second normalisation, so a result is shorter than 1.
    ``"slice-then-normalize"`` is that of most other systems: a result has length 1.

    Parameters
    ----------
    pooled : torch.Tensor
        ``[batch, hidden]``, float32.
    width : int
        How many leading values are kept, at most ``hidden``.
    order : {"normalize-then-slice", "slice-then-normalize"}

    Returns
    -------
    torch.Tensor
        float32 ``[batch, width]``. A zero vector stays zero.
    """
    from torch.nn.functional import normalize

    if order == "normalize-then-slice":
        return normalize(pooled, dim=-1)[:, :width]
    if order == "slice-then-normalize":
        return normalize(pooled[:, :width], dim=-1)
    raise ValueError(f"unknown order {order!r}: choose one of {', '.join(ORDERS)}")
