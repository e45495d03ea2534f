"""Reference implementation of pooling, slicing and normalising in PyTorch; faster paths are tested against it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import torch

Pooling = Literal["first", "last", "mean"]
Order = Literal["normalize-then-slice", "slice-then-normalize"]

POOLINGS: tuple[str, ...] = get_args(Pooling)
ORDERS: tuple[str, ...] = get_args(Order)


def pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Pool the hidden states of each text into one vector, with padding on either side.

    Parameters
    ----------
    hidden : torch.Tensor
        Hidden states of the last layer, ``[batch, tokens, hidden]``, any float dtype.
    mask : torch.Tensor
        Attention mask ``[batch, tokens]``, any dtype: 0 at padding, anything else at a token.
    pooling : {"first", "last", "mean"}
        First token (CLS), last token, or the mean over all tokens.

    Returns
    -------
    torch.Tensor
        float32 ``[batch, hidden]``. Values at padding, NaN included, are ignored. A row that is all padding gives the
        state at position 0 for ``first``, at the last position for ``last``, and NaN for ``mean``.
    """
    import torch

    if pooling == "mean":
        tokens = (mask != 0).unsqueeze(-1)
        kept = torch.where(tokens, hidden.to(torch.float32), 0.0)
        return kept.sum(dim=1) / tokens.sum(dim=1)
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    return hidden[rows, pooled_position(mask, pooling)].to(torch.float32)


def pooled_position(mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Return the position of the pooled token of each row, int64 ``[batch]``, for ``first`` and ``last`` pooling.

    For a row that is all padding: 0 for ``first``, the last position for ``last``.
    """
    import torch

    # argmax returns the first maximum; some devices have no argmax for bool.
    if pooling == "first":
        return (mask != 0).to(torch.int32).argmax(dim=1)
    if pooling == "last":
        return mask.shape[1] - 1 - (mask != 0).to(torch.int32).flip(1).argmax(dim=1)
    raise ValueError(f"unknown pooling {pooling!r}: choose one of {', '.join(POOLINGS)}")


def project(pooled: torch.Tensor, width: int, order: Order) -> torch.Tensor:
    """Slice vectors to their first ``width`` values and L2-normalise them, in the given order.

    ``"normalize-then-slice"`` is CARE's order (paper.md, "Order of operations"): vectors are divided by the norm of
    the FULL vector and not normalised again, so results have an L2 norm of at most 1.
    ``"slice-then-normalize"`` is the order of most other systems: results have unit norm.

    Parameters
    ----------
    pooled : torch.Tensor
        ``[batch, hidden]``, float32.
    width : int
        Embedding dimension: the number of leading values kept, at most ``hidden``.
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
