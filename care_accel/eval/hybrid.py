"""Vectors and words together, as `Retriever` fuses them."""

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
    """A dual encoder and BM25 fused by reciprocal rank, as mteb takes it: search only.

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
        """Time spent in each phase so far, by both."""
        dense, lexical = (part.seconds for part in self._parts)
        return {phase: dense.get(phase, 0.0) + lexical.get(phase, 0.0) for phase in {**dense, **lexical}}

    @property
    def encoded(self) -> int:
        """Different texts that were encoded."""
        return self._parts[0].encoded

    @property
    def cached(self) -> int:
        """Different texts whose vectors were found in the cache."""
        return self._parts[0].cached

    @property
    def key(self) -> str:
        """A hash of all that decides the scores."""
        parts = [part.key for part in self._parts]
        return hashlib.sha256(f"{parts} {CONSTANT} {LEXICAL_WEIGHT} {DEPTH}".encode()).hexdigest()

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """What mteb records of the model."""
        return ModelMeta.create_empty(
            overwrites={"name": f"care_accel/{self.name.rpartition('/')[2]}", "revision": self.key[:16]}
        )

    def supports(self, task: AbsTask) -> bool:
        """Tell whether this model can run a task: it ranks, and has no similarity for pairs."""
        return self._parts[1].supports(task)

    def manifest(self) -> dict[str, Any]:
        """Return what a reader needs to repeat the scores."""
        dense, lexical = self._parts
        fusion = {"constant": CONSTANT, "lexical weight": LEXICAL_WEIGHT, "depth": DEPTH}
        return {**dense.manifest(), "lexical": lexical.manifest(), "reciprocal rank fusion": fusion}

    def index(self, corpus: Any, **context: Any) -> None:
        """Index the documents of a task, their vectors and their words."""
        self._ids = list(corpus["id"])
        self._position = {key: i for i, key in enumerate(self._ids)}
        for part in self._parts:
            part.index(corpus, **context)

    def search(
        self, queries: Any, *, top_k: int, top_ranked: dict[str, list[str]] | None = None, **context: Any
    ) -> Results:
        """Return the best documents of every query; where a task names candidates, all of these are ranked."""
        depth = min(top_k, DEPTH) if top_ranked is None else top_k
        dense, lexical = (
            part.search(queries, top_k=depth, top_ranked=top_ranked, **context) for part in self._parts
        )
        return {query: self._fuse(dense[query], lexical[query]) for query in queries["id"]}

    def _fuse(self, dense: dict[str, float], lexical: dict[str, float]) -> dict[str, float]:
        # A document that shares no word is in no place of the lexical ranking, as in `BM25Index.search`.
        lexical = {key: score for key, score in lexical.items() if score > 0}
        rankings = [
            np.array(
                [sorted(map(self._position.__getitem__, found), key=lambda i: (-found[self._ids[i]], i))]
            )
            for found in (dense, lexical)
        ]
        scores, ids = reciprocal_rank_fusion(rankings, k=max(1, len(dense | lexical)))
        return {self._ids[i]: float(s) for i, s in zip(ids[0], scores[0], strict=True) if i >= 0}
