"""Accuracy gate of an export: compares embeddings, rankings and scores with the float32 original."""

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

# Maximum texts for the cosines, and texts encoded both alone and in one batch.
_MAX_TEXTS, _BATCH_TEXTS = 1000, 16
_DEPTH = 10
# Rounding of float16 and bfloat16, independent of the batch; float32 and int8 must meet the package's limit of 1e-5.
BATCH_CHANGE: Mapping[str, float] = {"float16": 2e-3, "bfloat16": 2e-2}

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Limits:
    """Limits on the deviation of an export from the original.

    Attributes
    ----------
    worst_cosine : float
        Minimum over the texts of the cosine between exported and original embedding.
    top10_overlap : float
        Minimum overlap of the top 10 documents with the original's, averaged over the queries.
    ndcg_change : float
        Maximum absolute change of nDCG@10, in points (hundredths).
    batch_change : float, optional
        Maximum absolute change of an embedding's values by the other texts in the batch; by default 1e-5, 2e-3 for
        float16 and 2e-2 for bfloat16.
    """

    worst_cosine: float = 0.995
    top10_overlap: float = 0.95
    ndcg_change: float = 0.3
    batch_change: float | None = None

    def batch(self, dtype: str) -> float:
        """Return the limit on `batch_change` for a dtype."""
        return BATCH_CHANGE.get(dtype, 1e-5) if self.batch_change is None else self.batch_change


@dataclass(frozen=True)
class Metrics:
    """Metrics of one exported encoder.

    Attributes
    ----------
    texts : int
        Number of texts compared.
    mean_cosine, worst_cosine : float
        Cosine between exported and original embeddings.
    top10_overlap : float
    ndcg_before, ndcg_after : float
        nDCG@10 in points: of the original, and with the exported encoder in its role.
    batch_change : float
    with_unknown_tokens : int
        Compared texts with tokens outside a pruned vocabulary.
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
        """Return a message for each accuracy limit that is exceeded; `batch_change` is not checked here."""
        failures = []
        if not self.worst_cosine >= limits.worst_cosine:
            failures.append(f"worst cosine {self.worst_cosine:.5f} is below {limits.worst_cosine:g}")
        if not self.top10_overlap >= limits.top10_overlap:
            failures.append(f"top-10 overlap {self.top10_overlap:.4f} is below {limits.top10_overlap:g}")
        if not abs(self.ndcg_after - self.ndcg_before) <= limits.ndcg_change:
            failures.append(
                f"nDCG@10 went from {self.ndcg_before:.2f} to {self.ndcg_after:.2f}, "
                f"more than {limits.ndcg_change:g} points"
            )
        return failures

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics as stored in ``export.json``."""
        return dataclasses.asdict(self)


class Gate:
    """Compares exported encoders with the original, whose embeddings are computed once.

    Parameters
    ----------
    original : DualEncoder
        In float32, with the PyTorch runtime.
    dev : DevSet
    texts : sequence of str, optional
        Texts for the cosines; by default the queries of ``dev``, or its documents for a document encoder.
    """

    def __init__(self, original: DualEncoder, dev: DevSet, texts: Sequence[str] | None = None) -> None:
        self._original = original
        self._dev = dev
        self._texts = texts

    def measure(self, encoder: Encoder, role: Role) -> Metrics:
        """Measure an exported encoder in its role, with the original encoder in the other role."""
        texts = self._sample(role)
        unknown = encoder.counts.with_unknown_tokens
        exported = encoder.encode(texts)
        unknown = encoder.counts.with_unknown_tokens - unknown
        cosines = _cosines(self._original.encoder(role).encode(texts), exported)
        side = encoder.encode(list(self._side(role).values()))
        before = self._ranking
        after = self._rank(side, self._documents) if role == "query" else self._rank(self._queries, side)
        overlap = [len(before[query].keys() & after[query].keys()) / len(before[query]) for query in before]
        return Metrics(
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
        step = max(1, len(texts) / _MAX_TEXTS)
        return [texts[int(i * step)] for i in range(min(len(texts), _MAX_TEXTS))]

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
    """Return the maximum difference between embeddings of texts encoded alone and in one padded batch.

    The sample spans the shortest to the longest text, so that most of them are padded in the batch.
    """
    ordered = sorted(set(texts), key=len)
    step = max(1, len(ordered) / _BATCH_TEXTS)
    sample = [ordered[int(i * step)] for i in range(min(len(ordered), _BATCH_TEXTS))]
    rows = encoder.tokenize([*sample, ordered[-1]])
    together = encoder.encode_tokens(rows, batch_size=len(rows), token_budget=len(rows) * max(map(len, rows)))
    alone = np.concatenate([encoder.encode_tokens([row]) for row in rows])
    return float(np.abs(together - alone).max())


def _cosines(first: Vectors, second: Vectors) -> NDArray[np.float64]:
    a, b = first.astype(np.float64), second.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    # Two zero vectors, as an empty text may have, count as equal; one zero vector gives 0.
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    return np.where(both_zero, 1.0, (a * b).sum(axis=1) / np.where(lengths > 0, lengths, 1.0))
