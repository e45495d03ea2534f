"""A dual encoder behind mteb's protocols: encoding, search, similarity, metadata."""

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

# Texts encoded between two writes to the cache: what a run that is killed loses at most.
_CHUNK = 1024

Vectors = NDArray[np.float32]
Results = dict[str, dict[str, float]]


class MtebModel:
    """A dual encoder as mteb takes it: ``mteb.evaluate(model.as_mteb(), tasks)``.

    Roles come from mteb's ``prompt_type``, and without one a text is a query. Search goes through
    `ExactIndex`. The score is the inner product, which is not a cosine for a model that normalises
    before it slices.

    Parameters
    ----------
    model : DualEncoder or ServedDualEncoder
    cache : EmbeddingCache, optional
        Where vectors are kept between runs.
    batch_size : int
        Texts in a batch at most; ``encode_kwargs`` of mteb may name another.
    show_progress : bool
        Draw a progress bar while encoding.

    Attributes
    ----------
    seconds : dict of str to float
        Time spent in each phase so far.
    encoded, cached : int
        Different texts that were encoded, and that were found in the cache.
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
        """A hash of all that decides this model's scores."""
        parts = [
            f"{self.model.revision(role)} {' '.join(self.model.choice(role).identity)}" for role in ROLES
        ]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """What mteb records of the model."""
        return ModelMeta.create_empty(
            overwrites={
                # mteb wants owner/name
                "name": self.name if "/" in self.name else f"care_accel/{self.name}",
                "revision": self.key[:16],
                "embed_dim": self.model.width,
                "max_tokens": self.model.spec("document").max_tokens,
                "similarity_fn_name": ScoringFunction.DOT_PRODUCT,
                "framework": ["PyTorch"],
            }
        )

    def supports(self, task: AbsTask) -> bool:
        """Tell whether this model can run a task; a dual encoder runs them all."""
        return True

    def manifest(self) -> dict[str, Any]:
        """Return what a reader needs to repeat the scores, for both roles."""
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
        """Encode mteb's batches, as queries unless ``prompt_type`` says document.

        Returns
        -------
        numpy.ndarray
            float32 ``[n, width]``.
        """
        texts = [text for batch in inputs for text in batch["text"]]
        role: Role = "document" if prompt_type == PromptType.document else "query"
        return self._encode(texts, role, _prompt_task(task_metadata), batch_size)

    def index(self, corpus: Any, *, task_metadata: TaskMetadata, encode_kwargs: Any = None, **_: Any) -> None:
        """Encode and index the documents of a task."""
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
        """Return the best documents of every query, among its candidates where a task names them."""
        if self._index is None:
            raise CareError("search before index: mteb indexes a task's documents first")
        ids = list(queries["id"])
        vectors = self._encode(
            list(queries["text"]), "query", _prompt_task(task_metadata), _size(encode_kwargs)
        )
        with self._timed("search"):
            if top_ranked is not None:
                return self._rerank(ids, vectors, top_ranked)
            scores, found = self._index.search(vectors, k=min(top_k, len(self._index)))
        return {
            query: {self._ids[i]: float(s) for i, s in zip(row, values, strict=True)}
            for query, row, values in zip(ids, found, scores, strict=True)
        }

    def _rerank(self, ids: list[str], vectors: Vectors, candidates: dict[str, list[str]]) -> Results:
        position = {key: i for i, key in enumerate(self._ids)}
        results: Results = {}
        for query, vector in zip(ids, vectors, strict=True):
            own = candidates[query]
            scores, found = self._index_of(self._vectors[[position[key] for key in own]]).search(
                vector, k=len(own)
            )
            results[query] = {own[i]: float(s) for i, s in zip(found, scores, strict=True)}
        return results

    def _index_of(self, vectors: Vectors) -> ExactIndex:
        index = ExactIndex(self.model.width, encoder_revision=self.model.revision("document"))
        index.add(vectors)
        return index

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Return inner products, ``[n, width]`` and ``[m, width]`` to float32 ``[n, m]``."""
        return _tensor(embeddings1) @ _tensor(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Return inner products row by row, ``[n, width]`` twice to float32 ``[n]``."""
        return (_tensor(embeddings1) * _tensor(embeddings2)).sum(dim=-1)

    def _encode(self, texts: Sequence[str], role: Role, task: Task, batch_size: int | None) -> Vectors:
        """Encode every different text once, the cache asked first and filled chunk by chunk."""
        keys = vector_keys(self.model, role, task, texts)
        known = self._cache.get(list(set(keys))) if self._cache else {}
        self.cached += len(known)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        # Alike lengths share a chunk, so that the batches in it are padded little.
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
    """Return a dual encoder as one that ``mteb.evaluate`` takes.

    Parameters
    ----------
    model : DualEncoder or ServedDualEncoder
    **options
        Of `MtebModel`: ``cache``, ``batch_size``, ``show_progress``.
    """
    return MtebModel(model, **options)


def document_texts(corpus: Any) -> list[str]:
    """Return what is encoded of each document of mteb's corpus: title and text, joined as mteb joins them."""
    titles = corpus["title"] if "title" in corpus.column_names else [""] * len(corpus)
    return [
        f"{title} {text}".strip() if title else text
        for title, text in zip(titles, corpus["text"], strict=True)
    ]


def _prompt_task(metadata: TaskMetadata) -> Task:
    """Return the task whose prompt fits; tasks that rank nothing compare texts, as STS does."""
    kind = metadata.type
    return "reranking" if "Reranking" in kind else "retrieval" if "Retrieval" in kind else "sts"


def _size(encode_kwargs: Any) -> int | None:
    return (encode_kwargs or {}).get("batch_size")


def _tensor(embeddings: Any) -> torch.Tensor:
    return torch.as_tensor(np.asarray(embeddings), dtype=torch.float32)
