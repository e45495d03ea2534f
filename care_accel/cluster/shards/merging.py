"""What several shards have found as one ranking, in the order of a single index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from care_accel.cluster.shards.answers import Candidate, Document, Found
from care_accel.collection.versions.fusing import fused
from care_accel.retriever import Hit


def merged(
    found: Sequence[Found], numbers: Sequence[int], k: int, *, group: bool
) -> list[list[tuple[int, Candidate]]]:
    """Return the k best of the candidates of several shards, for each query, with the numbers of their shards.

    The order is that of one index: higher score first, in float64, equal scores by id and chunk. In groups each document is
    there once, by its best chunk: a shard has it among its k best if it is among the k best of all.
    """
    rows = []
    for parts in zip(*(part.hits for part in found), strict=True):
        every = [
            (number, candidate) for number, part in zip(numbers, parts, strict=True) for candidate in part
        ]
        every.sort(key=lambda one: (-one[1].score, one[1].id, one[1].chunk))
        if group:
            best: dict[str, tuple[int, Candidate]] = {}
            for one in every:
                best.setdefault(one[1].id, one)
            every = list(best.values())
        rows.append(every[:k])
    return rows


def fused_candidates(
    rankings: Sequence[Sequence[tuple[int, Candidate]]], k: int, *, group: bool
) -> list[tuple[int, Candidate]]:
    """Fuse two rankings of one query, as `fused`; candidates then have the score of the fusion."""
    known = {(one.id, one.chunk): (number, one) for ranking in rankings for number, one in ranking}
    names = [[(one.id, one.chunk) for _, one in ranking] for ranking in rankings]
    return [
        (known[name][0], known[name][1]._replace(score=score)) for name, score in fused(names, k, group=group)
    ]


def hit_of(candidate: Candidate) -> Hit:
    """Return a candidate as a hit for users."""
    found = candidate.document
    row, span = (found() if callable(found) else found) or Document({}, None)
    return Hit(candidate.id, float(np.float32(candidate.score)), row, span)
