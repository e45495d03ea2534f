"""What every model has to beat: words alone, and the same networks before any training."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mteb.models.model_meta import ModelMeta

from care_accel.encoding import ROLES, DualEncoder
from care_accel.encoding.loading.checkpoint import Checkpoint
from care_accel.encoding.loading.quiet import save_network
from care_accel.encoding.loading.sources import Source, Sources
from care_accel.errors import CareError
from care_accel.eval.mteb_model import Results, document_texts
from care_accel.eval.statistics.resampling import SEED
from care_accel.index.bm25 import BM25Index

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask


def untrained(model: DualEncoder, folder: Path) -> DualEncoder:
    """Return a dual encoder of the same architectures, tokenizers and specs, with random weights.

    An evaluation that such a model passes measures nothing.

    Parameters
    ----------
    model : DualEncoder
    folder : Path
        Where the random networks are written; they are the same on every run.
    """
    import torch
    from transformers import AutoModel

    torch.manual_seed(SEED)
    sources: dict[str, Source] = {}
    for role in ROLES:
        if model.symmetric and sources:  # one network for both roles, as the model has
            sources[role] = Source(sources["query"].checkpoint, model.spec(role))
            break
        checkpoint = model.source(role).checkpoint
        network = AutoModel.from_config(checkpoint.config, dtype=torch.float32)
        save_network(network, folder / role)
        checkpoint.load_tokenizer().save_pretrained(folder / role)
        if (vocabulary := checkpoint.load_vocabulary()) is not None:
            vocabulary.save(folder / role)
        sources[role] = Source(Checkpoint(folder / role), model.spec(role))
    return DualEncoder(Sources(f"{model.name}-untrained", sources["query"], sources["document"]))


class BM25Model:
    """The lexical baseline as mteb takes it: search only, it has no vectors."""

    name = "bm25"

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.encoded = self.cached = 0
        self._ids: list[str] = []
        self._index: BM25Index | None = None

    @property
    def key(self) -> str:
        """A hash of all that decides the scores."""
        return hashlib.sha256(repr(sorted(self.manifest().items())).encode()).hexdigest()

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """What mteb records of the model."""
        return ModelMeta.create_empty(overwrites={"name": "care_accel/bm25", "revision": self.key[:16]})

    def supports(self, task: AbsTask) -> bool:
        """Tell whether this model can run a task: it ranks, and has no similarity for pairs."""
        return task.metadata.type != "STS"

    def manifest(self) -> dict[str, Any]:
        """Return what a reader needs to repeat the scores."""
        return {
            "tokens": "characters, 1- and 2-grams, NFKC, lower case",
            "k1": 1.2,
            "b": 0.75,
            "idf": "lucene",
        }

    def index(self, corpus: Any, **_: Any) -> None:
        """Index the documents of a task."""
        started = time.monotonic()
        self._ids = list(corpus["id"])
        self._index = BM25Index(document_texts(corpus))
        self.seconds["index"] = self.seconds.get("index", 0.0) + time.monotonic() - started

    def search(
        self, queries: Any, *, top_k: int, top_ranked: dict[str, list[str]] | None = None, **_: Any
    ) -> Results:
        """Return the best documents of every query, among its candidates where a task names them."""
        if self._index is None:
            raise CareError("search before index: mteb indexes a task's documents first")
        started = time.monotonic()
        position = {key: i for i, key in enumerate(self._ids)}
        results: Results = {}
        for query, text in zip(queries["id"], queries["text"], strict=True):
            if top_ranked is not None:
                scores = self._index.scores(text)
                results[query] = {key: float(scores[position[key]]) for key in top_ranked[query]}
            else:
                best, ids = self._index.search([text], k=top_k)
                found = ids[0] >= 0
                results[query] = {
                    self._ids[i]: float(s) for i, s in zip(ids[0][found], best[0][found], strict=True)
                }
        self.seconds["search"] = self.seconds.get("search", 0.0) + time.monotonic() - started
        return results
