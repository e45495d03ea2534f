"""The accuracy gate of an export: how far its vectors, rankings and scores are from the float32 original's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from care_accel.encoding import DualEncoder, Encoder, Role
from care_accel.errors import CareError
from care_accel.export.texts import DevSet
from care_accel.index import ExactIndex

# Texts whose cosines are taken, and texts that are encoded alone as well as together.
_MOST_TEXTS, _NEIGHBOURS = 1000, 16
_DEPTH = 10
# float16 and bfloat16 round by this much whatever the batch; float32 and int8 are held to the package's promise.
BATCH_CHANGE: Mapping[str, float] = {"float16": 2e-3, "bfloat16": 2e-2}

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Limits:
    """How far an export may be from the original.

    Attributes
    ----------
    worst_cosine : float
        The smallest cosine between a text's two vectors, at least this.
    top10_overlap : float
        Share of the ten best documents that stay among them, on average over the queries, at least this.
    ndcg_change : float
        Change of nDCG@10 in points (hundredths), either way, at most this.
    batch_change : float, optional
        Largest change of a value of a vector by its neighbours in a batch, at most this; 1e-5, and for half
        precision what that rounds, by default.
    """

    worst_cosine: float = 0.995
    top10_overlap: float = 0.95
    ndcg_change: float = 0.3
    batch_change: float | None = None

    def batch(self, dtype: str) -> float:
        """Return the limit of `batch_change` for a precision."""
        return BATCH_CHANGE.get(dtype, 1e-5) if self.batch_change is None else self.batch_change


@dataclass(frozen=True)
class Figures:
    """What was measured of one exported encoder.

    Attributes
    ----------
    texts : int
        Texts whose cosines were taken.
    mean_cosine, worst_cosine : float
    top10_overlap : float
    ndcg_before, ndcg_after : float
        nDCG@10 in points, of the original, and with the exported encoder on its side.
    batch_change : float
    with_unknown_tokens : int
        Texts of the sample with tokens outside a kept vocabulary.
    """

    texts: int
    mean_cosine: float
    worst_cosine: float
    top10_overlap: float
    ndcg_before: float
    ndcg_after: float
    batch_change: float
    with_unknown_tokens: int

    def failures(self, limits: Limits) -> list[str]:
        """Say which limits on accuracy are not kept, with the figures; what depends on a batch is no part of it."""
        found = []
        if not self.worst_cosine >= limits.worst_cosine:
            found.append(f"worst cosine {self.worst_cosine:.5f} is below {limits.worst_cosine:g}")
        if not self.top10_overlap >= limits.top10_overlap:
            found.append(f"top-10 overlap {self.top10_overlap:.4f} is below {limits.top10_overlap:g}")
        if not abs(self.ndcg_after - self.ndcg_before) <= limits.ndcg_change:
            found.append(
                f"nDCG@10 went from {self.ndcg_before:.2f} to {self.ndcg_after:.2f}, "
                f"more than {limits.ndcg_change:g} points"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as ``export.json`` holds them."""
        return dataclasses.asdict(self)


class Gate:
    """Measures exported encoders against one original; the original's vectors are computed once.

    Parameters
    ----------
    original : DualEncoder
        In float32, run by PyTorch.
    dev : DevSet
    texts : sequence of str, optional
        For the cosines; by default the set's queries, or its documents for a document encoder.
    """

    def __init__(self, original: DualEncoder, dev: DevSet, texts: Sequence[str] | None = None) -> None:
        self._original = original
        self._dev = dev
        self._texts = texts

    def measure(self, encoder: Encoder, role: Role) -> Figures:
        """Measure an exported encoder of a role; the other role stays the original's."""
        texts = self._sample(role)
        unknown = encoder.counts.with_unknown_tokens
        exported = encoder.encode(texts)
        unknown = encoder.counts.with_unknown_tokens - unknown
        cosines = _cosines(self._original.encoder(role).encode(texts), exported)
        side = encoder.encode(list(self._side(role).values()))
        before = self._ranking
        after = self._rank(side, self._documents) if role == "query" else self._rank(self._queries, side)
        overlap = [len(before[query].keys() & after[query].keys()) / len(before[query]) for query in before]
        return Figures(
            texts=len(texts),
            mean_cosine=float(cosines.mean()),
            worst_cosine=float(cosines.min()),
            top10_overlap=float(np.mean(overlap)),
            ndcg_before=self._ndcg(before),
            ndcg_after=self._ndcg(after),
            batch_change=batch_change(encoder, texts),
            with_unknown_tokens=unknown,
        )

    def _side(self, role: Role) -> dict[str, str]:
        return self._dev.queries if role == "query" else self._dev.documents

    def _sample(self, role: Role) -> list[str]:
        texts = list(self._side(role).values() if self._texts is None else self._texts)
        step = max(1, len(texts) / _MOST_TEXTS)
        return [texts[int(i * step)] for i in range(min(len(texts), _MOST_TEXTS))]

    @cached_property
    def _queries(self) -> Vectors:
        return self._original.encode_query(list(self._dev.queries.values()))

    @cached_property
    def _documents(self) -> Vectors:
        return self._original.encode_document(list(self._dev.documents.values()))

    @cached_property
    def _ranking(self) -> dict[str, dict[str, float]]:
        return self._rank(self._queries, self._documents)

    def _rank(self, queries: Vectors, documents: Vectors) -> dict[str, dict[str, float]]:
        index = ExactIndex(documents.shape[1])
        index.add(documents)
        scores, ids = index.search(queries, k=min(_DEPTH, len(documents)))
        names = list(self._dev.documents)
        return {
            query: {names[i]: float(score) for i, score in zip(row, values, strict=True)}
            for query, row, values in zip(self._dev.queries, ids, scores, strict=True)
        }

    def _ndcg(self, ranking: dict[str, dict[str, float]]) -> float:
        try:
            from care_accel.eval.statistics.uncertainty import query_scores
        except ImportError as missing:
            raise CareError(f"{missing.name} is not installed: pip install 'care-accel[eval]'") from None
        return 100 * float(np.mean(list(query_scores("ndcg_at_10", self._dev.relevant, ranking).values())))


def batch_change(encoder: Encoder, texts: Sequence[str]) -> float:
    """Return how far a value of a text's vector moves between the text alone and a batch of other lengths.

    Taken are texts from the shortest to the longest, so that most of them are padded in the batch.
    """
    ordered = sorted(set(texts), key=len)
    step = max(1, len(ordered) / _NEIGHBOURS)
    some = [ordered[int(i * step)] for i in range(min(len(ordered), _NEIGHBOURS))]
    rows = encoder.tokenize([*some, ordered[-1]])
    together = encoder.encode_tokens(rows, batch_size=len(rows), token_budget=len(rows) * max(map(len, rows)))
    alone = np.concatenate([encoder.encode_tokens([row]) for row in rows])
    return float(np.abs(together - alone).max())


def _cosines(first: Vectors, second: Vectors) -> NDArray[np.float64]:
    a, b = first.astype(np.float64), second.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    # Both zero, as an empty text's vectors may be, are alike; one zero is as far off as can be.
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    return np.where(both_zero, 1.0, (a * b).sum(axis=1) / np.where(lengths > 0, lengths, 1.0))
