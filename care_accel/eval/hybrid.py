"""Hybrid search: dense retrieval and BM25, fused as in `Retriever`."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
from mteb.models.model_meta import ModelMeta

from care_accel.eval.baselines import BM25Model
from care_accel.eval.mteb_model import MtebModel, Results
from care_accel.index.fusion import CONSTANT, DEPTH, LEXICAL_WEIGHT, reciprocal_rank_fusion

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask


class HybridModel:
    """A dual encoder and BM25 combined by reciprocal rank fusion, for mteb: search only.

    Parameters
    ----------
    dense : MtebModel
    lexical : BM25Model
    """

    def __init__(self, dense: MtebModel, lexical: BM25Model) -> None:
        self.name = f"{dense.name}-hybrid"
        self._parts = (dense, lexical)
        self._ids: list[str] = []
        self._position: dict[str, int] = {}

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds spent in each phase so far, summed over both models."""
        dense, lexical = (part.seconds for part in self._parts)
        return {phase: dense.get(phase, 0.0) + lexical.get(phase, 0.0) for phase in {**dense, **lexical}}

    @property
    def encoded(self) -> int:
        """Number of distinct texts encoded."""
        return self._parts[0].encoded

    @property
    def cached(self) -> int:
        """Number of distinct texts found in the cache."""
        return self._parts[0].cached

    @property
    def key(self) -> str:
        """A hash of everything that affects the scores."""
        parts = [part.key for part in self._parts]
        return hashlib.sha256(f"{parts} {CONSTANT} {LEXICAL_WEIGHT} {DEPTH}".encode()).hexdigest()

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """Model metadata for mteb."""
        return ModelMeta.create_empty(
            overwrites={"name": f"care_accel/{self.name.rpartition('/')[2]}", "revision": self.key[:16]}
        )

    def supports(self, task: AbsTask) -> bool:
        """Whether this model can run a task: retrieval and reranking; the others need vectors."""
        return self._parts[1].supports(task)

    def manifest(self) -> dict[str, Any]:
        """Return the settings needed to reproduce the scores."""
        dense, lexical = self._parts
        fusion = {"constant": CONSTANT, "lexical weight": LEXICAL_WEIGHT, "depth": DEPTH}
        return {**dense.manifest(), "lexical": lexical.manifest(), "reciprocal rank fusion": fusion}

    def index(self, corpus: Any, **context: Any) -> None:
        """Index a task's corpus in both models."""
        self._ids = list(corpus["id"])
        self._position = {key: i for i, key in enumerate(self._ids)}
        for part in self._parts:
            part.index(corpus, **context)

    def search(
        self, queries: Any, *, top_k: int, top_ranked: dict[str, list[str]] | None = None, **context: Any
    ) -> Results:
        """Return the top documents for each query; in a reranking task, the scores of all its candidates."""
        depth = min(top_k, DEPTH) if top_ranked is None else top_k
        dense, lexical = (
            part.search(queries, top_k=depth, top_ranked=top_ranked, **context) for part in self._parts
        )
        return {query: self._fuse(dense[query], lexical[query]) for query in queries["id"]}

    def _fuse(self, dense: dict[str, float], lexical: dict[str, float]) -> dict[str, float]:
        # A document with BM25 score 0 is not in the lexical ranking, as in `BM25Index.search`.
        lexical = {key: score for key, score in lexical.items() if score > 0}
        rankings = [
            np.array(
                [sorted(map(self._position.__getitem__, scores), key=lambda i: (-scores[self._ids[i]], i))]
            )
            for scores in (dense, lexical)
        ]
        fused, ids = reciprocal_rank_fusion(rankings, k=max(1, len(dense | lexical)))
        return {self._ids[i]: float(s) for i, s in zip(ids[0], fused[0], strict=True) if i >= 0}
