"""Python backend model of the exact scan: EMBEDDING to IDS, SCORES and DOCUMENTS."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from care_accel.encoding.loading.sources import EMBEDDED
from care_accel.encoding.spec import Role
from care_accel.errors import CareError
from care_accel.files import read_jsonl
from care_accel.index import ExactIndex
from care_accel.index import store as index_store
from care_accel.index.cuda import require_cuda
from care_accel.retriever import MANIFEST, Retriever
from care_accel.serving.backend.tensors import Backend, fair_threads, read_texts, split

# Interval in seconds at which the index folder is checked, at the cost of one stat call.
_POLL_S = 0.5
# Serialised documents in the cache; some tens of megabytes for CARE's tasks.
_CACHED_DOCUMENTS = 16_384


@dataclass
class RecordedModel:
    """Identity of the dual encoder that made the index; the encoder itself runs in other processes."""

    name: str
    width: int
    document: str

    def revision(self, role: Role) -> str:
        """Return the document encoder's hash."""
        return self.document


class _ValidRequest(NamedTuple):
    """A validated request."""

    position: int
    vectors: Any
    ks: NDArray[np.int32]
    texts: list[str] | None
    times: NDArray[np.float32]


class ScanModel:
    """Python backend model ``scan``.

    Batched requests are searched together. The index is reloaded without downtime when its folder is replaced
    (`ExactIndex.save`, `Retriever.save`): the old one serves until the new one is loaded, and stays if the new one is
    incomplete or was made by another document encoder.

    Parameters in the configuration, as JSON: ``care`` (revision of the document encoder, width, ``k``, ``most_k``), one
    of ``index`` (a folder) and ``documents`` (an embedded data set, encoded at start-up), ``queue`` and ``wait`` (see
    `Backlog`).
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Load the index; fails for one of another document encoder."""
        self.backend = Backend(args)
        known = self.backend.parameters["care"]
        self._k, self._max_k = int(known["k"]), int(known["most_k"])
        self._made_by = RecordedModel(known["name"], int(known["width"]), known["revision"])
        self._backlog = self.backend.backlog()
        self._device = scan_device(self.backend)
        self._ended = threading.Event()
        folder = self.backend.parameters.get("index")
        if folder is None:
            self.retriever = encode_embedded_documents(self.backend, self.backend.parameters["documents"])
            self._documents = DocumentCache(self.retriever)
            return
        self._folder = self.backend.path(folder)
        self._seen = None
        while self._seen is None:
            self._seen, self.retriever = self._open()
        self._documents = DocumentCache(self.retriever)
        threading.Thread(target=self._watch, name="index", daemon=True).start()

    def finalize(self) -> None:
        """Stop the reload thread and report the last metrics."""
        self._ended.set()
        self.backend.end()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Return hits or an error for each request."""
        begun = perf_counter()
        if why := self._backlog.overload_reason(len(requests)):
            return self.backend.overload(why, len(requests))
        retriever = self.retriever  # one index for the whole batch, even if it is reloaded meanwhile
        answers: list[Any] = [None] * len(requests)
        asked = []
        for position, request in enumerate(requests):
            try:
                asked.append(self._read(position, request, retriever))
            except CareError as mistake:
                answers[position] = self.backend.refusal(mistake)
        if asked:
            for one, answer in zip(asked, self._answers(asked, retriever), strict=True):
                answers[one.position] = answer
            self._backlog.record(len(requests), perf_counter() - begun)
        return answers

    def _read(self, position: int, request: Any, retriever: Retriever) -> _ValidRequest:
        vectors = self._vectors(self.backend.tensor(request, "EMBEDDING"), retriever)
        finite = (
            np.isfinite(vectors).all(axis=1)
            if on_cpu(vectors)
            else np.asarray(vectors.isfinite().all(1).cpu())
        )
        if not finite.all():
            raise CareError(f"EMBEDDING {int(np.argmin(finite))} has a value that is not finite")
        ks = self.backend.array(request, "K")
        ks = np.full(len(vectors), self._k, np.int32) if ks is None else ks.ravel()
        wrong = (ks < 1) | (ks > self._max_k)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise CareError(f"K {row} is {ks[row]}; it must be 1 to {self._max_k:,}")
        texts = None
        if retriever.lexical is not None:
            raw = self.backend.array(request, "TEXT")
            if raw is None:
                raise CareError("this index is hybrid (vectors and BM25) and needs TEXT as well")
            texts = read_texts(raw, empty=False)
        times = self.backend.array(request, "ENCODE_TIMES")
        if times is None:
            times = np.zeros((len(vectors), 2), np.float32)
        return _ValidRequest(position, vectors, ks, texts, times)

    @staticmethod
    def _vectors(tensor: Any, retriever: Retriever) -> Any:
        """Return a request's vectors on the device of the search: the GPU if the index is there too, else the CPU."""
        if tensor.is_cpu():
            return tensor.as_numpy()
        import torch

        on_gpu = torch.from_dlpack(tensor.to_dlpack())
        return (
            on_gpu if retriever.index.device != "cpu" and retriever.lexical is None else on_gpu.cpu().numpy()
        )

    def _answers(self, asked: Sequence[_ValidRequest], retriever: Retriever) -> list[Any]:
        if self._documents.retriever is not retriever:
            self._documents = DocumentCache(retriever)
        begun = perf_counter()
        try:
            scores, ids, rescored = search_together(
                retriever,
                concatenate([one.vectors for one in asked]),
                np.concatenate([one.ks for one in asked]),
                [text for one in asked for text in one.texts or ()] or None,
            )
        except Exception as failure:  # every client gets an error, and the model keeps serving
            return [self.backend.failure(failure) for _ in asked]
        seconds = perf_counter() - begun
        count = self.backend.count
        count("scan_seconds", "Seconds spent on exact scans", seconds)
        count("queries", "Queries searched for", len(ids))
        count("rescored_candidates", "Vectors that a scan's codes could not rule out", rescored)
        counts = [len(one.vectors) for one in asked]
        answers = []
        for one, found, values in zip(asked, split(ids, counts), split(scores, counts), strict=True):
            k = int(one.ks.max())
            answers.append(
                self.backend.answer(
                    IDS=np.ascontiguousarray(found[:, :k]),
                    SCORES=np.ascontiguousarray(values[:, :k]),
                    DOCUMENTS=self._documents.get(found[:, :k]),
                    TIMES=np.hstack([one.times, np.full((len(found), 1), 1e6 * seconds, np.float32)]),
                )
            )
        return answers

    def _open(self) -> tuple[tuple[int, int] | None, Retriever]:
        """Load the index and return its identity; None if it was replaced while loading, and may be inconsistent."""
        before = identity(self._folder)
        if (self._folder / MANIFEST).is_file():
            opened = Retriever.load(self._folder, self._made_by, device=self._device)
        else:
            opened = Retriever(self._made_by, ExactIndex.load(self._folder, device=self._device))
        index = opened.index
        index.threads = fair_threads(index.threads, len(index) * index.width)  # one byte per value
        return before if identity(self._folder) == before else None, opened

    def _watch(self) -> None:
        while not self._ended.wait(_POLL_S):
            now = identity(self._folder)
            if now in (None, self._seen):  # the folder is missing between two renames
                continue
            try:
                seen, opened = self._open()
            except Exception as failure:  # the thread must survive
                if identity(self._folder) == now:
                    self._seen = now
                    self.backend.log(f"the new index is rejected, the old one stays live: {failure}")
                    self.backend.count("refused_indexes", "Replaced indexes that could not be opened", 1)
                continue
            if seen is None:
                continue
            self._seen, self.retriever = seen, opened
            self.backend.log(f"new index loaded, {len(self.retriever.index)} vectors")
            self.backend.count("reopened_indexes", "Replaced indexes that went live", 1)


def search_together(
    retriever: Retriever, vectors: Any, ks: NDArray[np.int32], texts: list[str] | None
) -> tuple[NDArray[np.float32], NDArray[np.int64], int]:
    """Search a batch of queries with individual k.

    Parameters
    ----------
    retriever : Retriever
    vectors : numpy.ndarray or torch.Tensor
        float32 ``[n, width]``; a tensor is on the GPU of the index.
    ks : numpy.ndarray
        int32 ``[n]``.
    texts : list of str, optional
        For a hybrid index.

    Returns
    -------
    scores, ids : numpy.ndarray
        ``[n, max(k)]``; padded with ``-inf`` and -1 beyond a query's own k.
    rescored : int
        Number of vectors rescored exactly.
    """
    if not on_cpu(vectors):
        on_gpu = retriever.index.search_on_device(vectors, int(ks.max()))
        scores, ids = (tensor.cpu().numpy().copy() for tensor in on_gpu)
        beyond = np.arange(scores.shape[1]) >= ks[:, np.newaxis]
        scores[beyond], ids[beyond] = -np.inf, -1
        return scores, ids, 0  # the count of rescored vectors stays on the GPU
    different = np.unique(ks)
    if len(different) == 1:
        scores, ids, stats = retriever.search_vectors(vectors, int(ks[0]), texts)
        return scores, ids, int(stats.rescored.sum())
    shape = len(vectors), int(ks.max())
    scores, ids = np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64)
    rescored = 0
    for k in different:
        rows = np.flatnonzero(ks == k)
        some = None if texts is None else [texts[row] for row in rows]
        found = retriever.search_vectors(vectors[rows], int(k), some)
        scores[rows, :k], ids[rows, :k] = found[0], found[1]
        rescored += int(found[2].rescored.sum())
    return scores, ids, rescored


def scan_device(backend: Backend) -> str:
    """Return the device of the index: the instance's GPU if this build supports it, else the CPU."""
    if backend.device != "cpu":
        try:
            require_cuda(backend.device)
        except CareError as reason:
            backend.log(f"the scan runs on the CPU: {reason}")
            return "cpu"
    return backend.device


def on_cpu(vectors: Any) -> bool:
    """Return whether vectors are in host memory."""
    return isinstance(vectors, np.ndarray)


def concatenate(parts: Sequence[Any]) -> Any:
    """Concatenate the vectors of several requests, on the GPU if any are there."""
    on_gpu = next((part for part in parts if not on_cpu(part)), None)
    if on_gpu is None:
        return np.concatenate(parts)
    import torch

    return torch.cat([torch.as_tensor(part, device=on_gpu.device) for part in parts])


def identity(folder: Path) -> tuple[int, int] | None:
    """Return inode and modification time of a saved folder's manifest, which change on replacement; None if missing."""
    for name in (MANIFEST, index_store.MANIFEST):
        try:
            found = (folder / name).stat()
        except OSError:
            continue
        return found.st_ino, found.st_mtime_ns
    return None


class DocumentCache:
    """Documents of an index, serialised as UTF-8 JSON and cached: serialising takes as long as the search."""

    def __init__(self, retriever: Retriever) -> None:
        self.retriever = retriever
        self._cached: dict[int, bytes] = {-1: b"null"}

    def get(self, ids: NDArray[np.int64]) -> NDArray[np.object_]:
        """Return the document of each hit, ``null`` for padding."""
        values = np.empty(ids.size, dtype=np.object_)
        for i, position in enumerate(ids.ravel().tolist()):
            raw = self._cached.get(position)
            values[i] = self._write(position) if raw is None else raw
        return values.reshape(ids.shape)

    def _write(self, position: int) -> bytes:
        document = self.retriever.document(position)
        try:
            raw = json.dumps(document, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:  # a lone surrogate: JSON can escape it, UTF-8 cannot encode it
            raw = json.dumps(document).encode("ascii")
        if len(self._cached) < _CACHED_DOCUMENTS:
            self._cached[position] = raw
        return raw


def encode_embedded_documents(backend: Backend, name: str) -> Retriever:
    """Encode the documents of an embedded data set, for a repository without an index."""
    from care_accel.serving.encoder_model import load_model

    file = EMBEDDED / name / "retrieval" / name / "corpus.jsonl"
    rows = [row for _, row in read_jsonl(file)]
    # Title and text as mteb joins them, so that scores match an evaluation.
    built = Retriever.from_documents(
        load_model(backend), [f"{row['title']} {row['text']}".strip() for row in rows]
    )
    return Retriever(built.model, built.index, rows)
