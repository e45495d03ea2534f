"""The exact scan as a model of the inference server: EMBEDDING in; IDS, SCORES and DOCUMENTS out."""

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

# How often the index's folder is looked at, in seconds: one call of the system each time.
_LOOK_EVERY = 0.5
# Documents that are kept as they are sent; of CARE's tasks some tens of megabytes.
_KEPT_DOCUMENTS = 16_384


@dataclass
class Recorded:
    """What is known here of the dual encoder whose index this is: it runs in other processes."""

    name: str
    width: int
    document: str

    def revision(self, role: Role) -> str:
        """Return the document encoder's hash."""
        return self.document


class _Asked(NamedTuple):
    """One request that can be answered."""

    position: int
    vectors: Any
    ks: NDArray[np.int32]
    texts: list[str] | None
    times: NDArray[np.float32]


class ScanModel:
    """What ``model.py`` of ``scan`` hands to the server.

    Requests that the server has collected are searched together. An index whose folder is replaced (`ExactIndex.save`,
    `Retriever.save`) goes live by itself: it is opened beside the old one, which answers until then, and stays if the
    new one is not whole or was made by another document encoder.

    Parameters of the configuration, as JSON: ``care`` (document encoder's revision, width, ``k``, ``most_k``), one of
    ``index`` (a folder) and ``documents`` (an embedded data set, encoded while loading), ``queue`` and ``wait`` (see
    `Backlog`).
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Open the index, or refuse one that another document encoder made."""
        self.backend = Backend(args)
        known = self.backend.parameters["care"]
        self._k, self._most_k = int(known["k"]), int(known["most_k"])
        self._made_by = Recorded(known["name"], int(known["width"]), known["revision"])
        self._backlog = self.backend.backlog()
        self._device = scan_device(self.backend)
        self._ended = threading.Event()
        folder = self.backend.parameters.get("index")
        if folder is None:
            self.retriever = encode_embedded(self.backend, self.backend.parameters["documents"])
            self._documents = Documents(self.retriever)
            return
        self._folder = self.backend.path(folder)
        self._seen = None
        while self._seen is None:
            self._seen, self.retriever = self._open()
        self._documents = Documents(self.retriever)
        threading.Thread(target=self._watch, name="index", daemon=True).start()

    def finalize(self) -> None:
        """End the thread that looks at the folder, and write the last counts."""
        self._ended.set()
        self.backend.end()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request with its hits, or with what was wrong with it."""
        begun = perf_counter()
        if why := self._backlog.excess(len(requests)):
            return self.backend.overload(why, len(requests))
        retriever = self.retriever  # one index for the whole batch, whatever is replaced meanwhile
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
            self._backlog.took(len(requests), perf_counter() - begun)
        return answers

    def _read(self, position: int, request: Any, retriever: Retriever) -> _Asked:
        vectors = self._vectors(self.backend.tensor(request, "EMBEDDING"), retriever)
        finite = (
            np.isfinite(vectors).all(axis=1) if here(vectors) else np.asarray(vectors.isfinite().all(1).cpu())
        )
        if not finite.all():
            raise CareError(f"EMBEDDING {int(np.argmin(finite))} holds a value that is not finite")
        ks = self.backend.array(request, "K")
        ks = np.full(len(vectors), self._k, np.int32) if ks is None else ks.ravel()
        wrong = (ks < 1) | (ks > self._most_k)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise CareError(f"K {row} is {ks[row]}; it must be 1 to {self._most_k:,}")
        texts = None
        if retriever.lexical is not None:
            raw = self.backend.array(request, "TEXT")
            if raw is None:
                raise CareError("this index has words beside its vectors; send TEXT as well")
            texts = read_texts(raw, empty=False)
        times = self.backend.array(request, "ENCODE_TIMES")
        if times is None:
            times = np.zeros((len(vectors), 2), np.float32)
        return _Asked(position, vectors, ks, texts, times)

    @staticmethod
    def _vectors(tensor: Any, retriever: Retriever) -> Any:
        """Return a request's vectors where they are searched: here, or on the GPU that they and the index lie on."""
        if tensor.is_cpu():
            return tensor.as_numpy()
        import torch

        there = torch.from_dlpack(tensor.to_dlpack())
        return there if retriever.index.device != "cpu" and retriever.lexical is None else there.cpu().numpy()

    def _answers(self, asked: Sequence[_Asked], retriever: Retriever) -> list[Any]:
        if self._documents.retriever is not retriever:
            self._documents = Documents(retriever)
        begun = perf_counter()
        try:
            scores, ids, rescored = search_together(
                retriever,
                joined([one.vectors for one in asked]),
                np.concatenate([one.ks for one in asked]),
                [text for one in asked for text in one.texts or ()] or None,
            )
        except Exception as failure:  # whatever it was, each client is told, and the next request is answered
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
        """Open the index, and tell its identity: None if it was replaced meanwhile, and may hold parts of both."""
        before = identity(self._folder)
        if (self._folder / MANIFEST).is_file():
            opened = Retriever.load(self._folder, self._made_by, device=self._device)
        else:
            opened = Retriever(self._made_by, ExactIndex.load(self._folder, device=self._device))
        index = opened.index
        index.threads = fair_threads(index.threads, len(index) * index.width)  # a byte a value
        return before if identity(self._folder) == before else None, opened

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_EVERY):
            now = identity(self._folder)
            if now in (None, self._seen):  # between two renames the folder is away for a moment
                continue
            try:
                seen, opened = self._open()
            except Exception as failure:  # a thread that ended here would never look again
                if identity(self._folder) == now:
                    self._seen = now
                    self.backend.log(f"the new index is refused, the old one stays: {failure}")
                    self.backend.count("refused_indexes", "Replaced indexes that could not be opened", 1)
                continue
            if seen is None:
                continue
            self._seen, self.retriever = seen, opened
            self.backend.log(f"a new index is live, {len(self.retriever.index)} vectors")
            self.backend.count("reopened_indexes", "Replaced indexes that went live", 1)


def search_together(
    retriever: Retriever, vectors: Any, ks: NDArray[np.int32], texts: list[str] | None
) -> tuple[NDArray[np.float32], NDArray[np.int64], int]:
    """Search for queries that each want their own number of hits.

    Parameters
    ----------
    retriever : Retriever
    vectors : numpy.ndarray or torch.Tensor
        float32 ``[n, width]``; a tensor lies on the index's GPU.
    ks : numpy.ndarray
        int32 ``[n]``.
    texts : list of str, optional
        For an index with words.

    Returns
    -------
    scores, ids : numpy.ndarray
        ``[n, largest k]``; ``-inf`` and -1 beyond a query's own k.
    rescored : int
        Vectors that were scored exactly.
    """
    if not here(vectors):
        there = retriever.index.search_on_device(vectors, int(ks.max()))
        scores, ids = (np.array(tensor.cpu()) for tensor in there)
        beyond = np.arange(scores.shape[1]) >= ks[:, np.newaxis]
        scores[beyond], ids[beyond] = -np.inf, -1
        return scores, ids, 0  # how many were rescored stays on the GPU
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
    """Return where the index goes: to the instance's GPU if this build can scan there."""
    if backend.device != "cpu":
        try:
            require_cuda(backend.device)
        except CareError as hindrance:
            backend.log(f"the scan runs on the processor: {hindrance}")
            return "cpu"
    return backend.device


def here(vectors: Any) -> bool:
    """Tell whether vectors lie in the processor's memory."""
    return isinstance(vectors, np.ndarray)


def joined(parts: Sequence[Any]) -> Any:
    """Return the vectors of several requests as one array, on the GPU if some lie there."""
    there = next((part for part in parts if not here(part)), None)
    if there is None:
        return np.concatenate(parts)
    import torch

    return torch.cat([torch.as_tensor(part, device=there.device) for part in parts])


def identity(folder: Path) -> tuple[int, int] | None:
    """Return what changes when a saved folder is replaced; None while there is none."""
    for name in (MANIFEST, index_store.MANIFEST):
        try:
            found = (folder / name).stat()
        except OSError:
            continue
        return found.st_ino, found.st_mtime_ns
    return None


class Documents:
    """The documents of an index as clients get them: JSON in UTF-8.

    Those that are found often are kept as they are sent; to write them anew would take as long as to find them.
    """

    def __init__(self, retriever: Retriever) -> None:
        self.retriever = retriever
        self._kept: dict[int, bytes] = {-1: b"null"}

    def get(self, ids: NDArray[np.int64]) -> NDArray[np.object_]:
        """Return the document of each hit, ``null`` where there is none."""
        values = np.empty(ids.size, dtype=np.object_)
        for place, position in enumerate(ids.ravel().tolist()):
            raw = self._kept.get(position)
            values[place] = self._write(position) if raw is None else raw
        return values.reshape(ids.shape)

    def _write(self, position: int) -> bytes:
        document = self.retriever.document(position)
        try:
            raw = json.dumps(document, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can say and UTF-8 cannot
            raw = json.dumps(document).encode("ascii")
        if len(self._kept) < _KEPT_DOCUMENTS:
            self._kept[position] = raw
        return raw


def encode_embedded(backend: Backend, name: str) -> Retriever:
    """Encode the documents of an embedded data set, so that a repository without an index finds something."""
    from care_accel.serving.encoder_model import load_model

    file = EMBEDDED / name / "retrieval" / name / "corpus.jsonl"
    rows = [row for _, row in read_jsonl(file)]
    # Title and text as mteb joins them, so that scores are those of an evaluation.
    built = Retriever.from_documents(
        load_model(backend), [f"{row['title']} {row['text']}".strip() for row in rows]
    )
    return Retriever(built.model, built.index, rows)
