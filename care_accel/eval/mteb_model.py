"""Adapter of a dual encoder to mteb's protocols: encoding, search, similarity, metadata."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.types import PromptType
from numpy.typing import NDArray

from care_accel.encoding import ROLES, BaseDualEncoder, Role, Task
from care_accel.errors import CareError
from care_accel.eval.cache import EmbeddingCache, vector_keys
from care_accel.index import ExactIndex
from care_accel.progress import progress_bar

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask
    from mteb.abstasks.task_metadata import TaskMetadata

# Texts encoded between two writes to the cache: the most that a killed run loses.
_CHUNK = 1024

Vectors = NDArray[np.float32]
Results = dict[str, dict[str, float]]


class MtebModel:
    """Adapter of a dual encoder to mteb: ``mteb.evaluate(model.as_mteb(), tasks)``.

    The role comes from mteb's ``prompt_type``; without it a text is a query. Search uses `ExactIndex`. The score is the
    inner product, which is not the cosine for a model that normalises before slicing.

    Parameters
    ----------
    model : DualEncoder or ServedDualEncoder
    cache : EmbeddingCache, optional
        Keeps embeddings between runs.
    batch_size : int
        Maximum texts per batch; mteb's ``encode_kwargs`` take precedence.
    show_progress : bool
        Show a progress bar while encoding.

    Attributes
    ----------
    seconds : dict of str to float
        Seconds spent in each phase so far.
    encoded, cached : int
        Number of distinct texts encoded, and found in the cache.
    """

    def __init__(
        self,
        model: BaseDualEncoder,
        *,
        cache: EmbeddingCache | None = None,
        batch_size: int = 64,
        show_progress: bool = False,
    ) -> None:
        self.model = model
        self.name = model.name
        self.seconds: dict[str, float] = {}
        self.encoded = self.cached = 0
        self._cache = cache
        self._batch_size = batch_size
        self._show_progress = show_progress
        self._ids: list[str] = []
        self._vectors: Vectors = np.empty((0, model.width), dtype=np.float32)
        self._index: ExactIndex | None = None

    @property
    def key(self) -> str:
        """A hash of everything that affects this model's scores."""
        parts = [
            f"{self.model.revision(role)} {' '.join(self.model.choice(role).identity)}" for role in ROLES
        ]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """Model metadata for mteb."""
        return ModelMeta.create_empty(
            overwrites={
                # mteb requires owner/name
                "name": self.name if "/" in self.name else f"care_accel/{self.name}",
                "revision": self.key[:16],
                "embed_dim": self.model.width,
                "max_tokens": self.model.spec("document").max_tokens,
                "similarity_fn_name": ScoringFunction.DOT_PRODUCT,
                "framework": ["PyTorch"],
            }
        )

    def supports(self, task: AbsTask) -> bool:
        """Whether this model can run a task; always true."""
        return True

    def manifest(self) -> dict[str, Any]:
        """Return the settings needed to reproduce the scores, for both roles."""
        return {
            "batch_size": self._batch_size,
            **{role: self.model.provenance(role) for role in ROLES},
        }

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: TaskMetadata,
        prompt_type: PromptType | None = None,
        batch_size: int | None = None,
        **_: Any,
    ) -> Vectors:
        """Encode mteb's batches, as queries unless ``prompt_type`` is document.

        Returns
        -------
        numpy.ndarray
            float32 ``[n, width]``.
        """
        texts = [text for batch in inputs for text in batch["text"]]
        role: Role = "document" if prompt_type == PromptType.document else "query"
        return self._encode(texts, role, _prompt_task(task_metadata), batch_size)

    def index(self, corpus: Any, *, task_metadata: TaskMetadata, encode_kwargs: Any = None, **_: Any) -> None:
        """Encode and index a task's corpus."""
        self._ids = list(corpus["id"])
        self._vectors = self._encode(
            document_texts(corpus), "document", _prompt_task(task_metadata), _size(encode_kwargs)
        )
        self._index = self._index_of(self._vectors)

    def search(
        self,
        queries: Any,
        *,
        task_metadata: TaskMetadata,
        top_k: int,
        encode_kwargs: Any = None,
        top_ranked: dict[str, list[str]] | None = None,
        **_: Any,
    ) -> Results:
        """Return the top documents for each query, or the scores of its candidates in a reranking task."""
        if self._index is None:
            raise CareError("search before index: call index with the task's corpus first")
        ids = list(queries["id"])
        vectors = self._encode(
            list(queries["text"]), "query", _prompt_task(task_metadata), _size(encode_kwargs)
        )
        with self._timed("search"):
            if top_ranked is not None:
                return self._rerank(ids, vectors, top_ranked)
            scores, positions = self._index.search(vectors, k=min(top_k, len(self._index)))
        return {
            query: {self._ids[i]: float(s) for i, s in zip(row, values, strict=True)}
            for query, row, values in zip(ids, positions, scores, strict=True)
        }

    def _rerank(self, ids: list[str], vectors: Vectors, candidates: dict[str, list[str]]) -> Results:
        position = {key: i for i, key in enumerate(self._ids)}
        results: Results = {}
        for query, vector in zip(ids, vectors, strict=True):
            own = candidates[query]
            scores, positions = self._index_of(self._vectors[[position[key] for key in own]]).search(
                vector, k=len(own)
            )
            results[query] = {own[i]: float(s) for i, s in zip(positions, scores, strict=True)}
        return results

    def _index_of(self, vectors: Vectors) -> ExactIndex:
        index = ExactIndex(self.model.width, encoder_revision=self.model.revision("document"))
        index.add(vectors)
        return index

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Return inner products, ``[n, width]`` and ``[m, width]`` to float32 ``[n, m]``."""
        return _tensor(embeddings1) @ _tensor(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Return row-wise inner products, ``[n, width]`` twice to float32 ``[n]``."""
        return (_tensor(embeddings1) * _tensor(embeddings2)).sum(dim=-1)

    def _encode(self, texts: Sequence[str], role: Role, task: Task, batch_size: int | None) -> Vectors:
        """Encode each distinct text once; read from the cache, and write to it chunk by chunk."""
        keys = vector_keys(self.model, role, task, texts)
        known = self._cache.get(list(set(keys))) if self._cache else {}
        self.cached += len(known)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        # Similar lengths share a chunk, to minimise padding.
        order = sorted(missing, key=lambda key: -len(missing[key]))
        with (
            self._timed(f"encode_{role}"),
            progress_bar(
                f"encoding {role}s", len(order), show=self._show_progress and bool(order)
            ) as advance,
        ):
            for start in range(0, len(order), _CHUNK):
                chunk = order[start : start + _CHUNK]
                vectors = self.model.encoder(role).encode(
                    [missing[key] for key in chunk], task=task, batch_size=batch_size or self._batch_size
                )
                if self._cache:
                    self._cache.put(chunk, vectors)
                known.update(zip(chunk, vectors, strict=True))
                self.encoded += len(chunk)
                advance(len(chunk))
        if not texts:
            return np.empty((0, self.model.width), dtype=np.float32)
        return np.stack([known[key] for key in keys])

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.monotonic() - started


def as_mteb(model: BaseDualEncoder, **options: Any) -> MtebModel:
    """Wrap a dual encoder for ``mteb.evaluate``.

    Parameters
    ----------
    model : DualEncoder or ServedDualEncoder
    **options
        Passed to `MtebModel`: ``cache``, ``batch_size``, ``show_progress``.
    """
    return MtebModel(model, **options)


def document_texts(corpus: Any) -> list[str]:
    """Return the text to encode for each document of mteb's corpus: title and text, joined as in mteb."""
    titles = corpus["title"] if "title" in corpus.column_names else [""] * len(corpus)
    return [
        f"{title} {text}".strip() if title else text
        for title, text in zip(titles, corpus["text"], strict=True)
    ]


def _prompt_task(metadata: TaskMetadata) -> Task:
    """Return the prompt task of an mteb task: STS for everything but retrieval and reranking."""
    kind = metadata.type
    return "reranking" if "Reranking" in kind else "retrieval" if "Retrieval" in kind else "sts"


def _size(encode_kwargs: Any) -> int | None:
    return (encode_kwargs or {}).get("batch_size")


def _tensor(embeddings: Any) -> torch.Tensor:
    return torch.as_tensor(np.asarray(embeddings), dtype=torch.float32)
