"""Hits of bfloat16 networks: their reference, all products in float32 of vectors encoded eagerly, and one tensor for their way back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch


def joined(scores: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return float32 scores and int64 ids, ``[queries, k]`` each, as one int32 tensor: one copy takes it to the host."""
    return torch.cat([ids.view(torch.int32), scores.view(torch.int32)], dim=1)


def parted(found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (scores, ids) of `joined`, on the host."""
    k = found.shape[1] // 3
    return found[:, 2 * k :].copy().view(np.float32), found[:, : 2 * k].copy().view(np.int64)


def check(found: Any, queries: Any, pieces: Iterable[tuple[int, Any]], within: float) -> None:
    """Compare hits with all products of eagerly encoded queries and the stored vectors.

    Two runs of a network in bfloat16 differ by rounding, and so do the products: documents whose scores differ by less may
    come in either order.

    Parameters
    ----------
    found : torch.Tensor
        Ids ``[queries, k]``, the best first.
    queries : torch.Tensor
        ``[queries, width]``, encoded eagerly.
    pieces : iterable of (int, torch.Tensor)
        First row and vectors ``[n, width]`` of each piece of the index.
    within : float
        Tolerance of the products.

    Raises
    ------
    AssertionError
        A hit is duplicate, is not an id, is worse than the k-th best, or precedes a better one.
    """
    products = torch.cat([queries.float() @ piece.float().T for _, piece in pieces], dim=1)
    found = found.to(products.device)
    assert int(found.min()) >= 0
    assert int(found.max()) < products.shape[1], "an id of no document"
    assert all(len(set(row)) == len(row) for row in found.tolist()), "the same document twice"
    best = torch.topk(products, found.shape[1]).values
    # The i-th hit against the i-th best: a document that was missed leaves all behind it too low.
    behind = float((best - products.gather(1, found)).max())
    assert behind <= within, f"a hit is {behind:.4f} below what is there"
