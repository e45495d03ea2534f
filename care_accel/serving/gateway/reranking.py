"""Orders documents by their scores for a query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def distinct(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return each text once, and for every text its position among these.

    The same text in two batches can have vectors that differ in their last bits, and must not have two scores.
    """
    places: dict[str, int] = {}
    positions = [places.setdefault(text, len(places)) for text in texts]
    return list(places), positions


def best(
    query: np.ndarray[Any, Any], vectors: np.ndarray[Any, Any], positions: Sequence[int], count: int
) -> list[tuple[int, float]]:
    """Return the best documents: index and score, best first, equal scores by smaller index.

    Parameters
    ----------
    query : numpy.ndarray
        float32 ``[width]``.
    vectors : numpy.ndarray
        float32 ``[m, width]``.
    positions : sequence of int
        Of each document's vector.
    count : int
        Maximum number.

    Notes
    -----
    A score is the inner product in float64, summed in the same order for every document, and rounded to float32: documents
    are ordered by what is shown.
    """
    products = np.multiply(vectors, query, dtype=np.float64)
    scores = products.sum(axis=1).astype(np.float32)[np.asarray(positions, np.intp)]
    order = np.argsort(-scores, kind="stable")[:count]
    return [(int(i), float(scores[i])) for i in order]
