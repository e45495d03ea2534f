"""Python backend model of an encoder: TEXT to EMBEDDING, batched over requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from care_accel.encoding import DualEncoder, Encoder, Role, Task
from care_accel.encoding.runtimes.native import NativeRuntime
from care_accel.encoding.runtimes.pytorch import PyTorchRuntime
from care_accel.errors import CareError
from care_accel.serving.backend.background import Background
from care_accel.serving.backend.tensors import Backend, fair_threads, read_tasks, read_texts, split
from care_accel.serving.backend.vector_cache import VectorCache

# Sequence lengths of the warm-up batches.
_WARM_UP_TOKENS = (8, 16, 32, 64, 128, 256, 512)


class _ValidRequest(NamedTuple):
    """A validated request."""

    position: int
    texts: list[str]
    tasks: list[Task]


class EncoderModel:
    """Python backend model ``query_encoder`` and ``document_encoder``.

    Requests that the server batched are tokenised together and encoded in batches of similar length within a token
    budget. A vector does not depend on the other texts of its batch.

    Parameters in the configuration, as JSON: ``care`` (the encoder; see `care_accel.serving.repository.python_backend`),
    ``load`` (options of `DualEncoder.from_pretrained`), ``token_budget``, ``background`` (run at idle priority),
    ``cached_texts``, ``warm_up_batch``, ``queue`` and ``wait`` (see `Backlog`), ``on_device`` (leave PyTorch's vectors on
    the device; disables the cache).
    """

    role: Role

    def initialize(self, args: dict[str, str]) -> None:
        """Load the encoder, check it against the configuration, and warm it up."""
        self.backend = Backend(args)
        parameters = self.backend.parameters
        self._backlog = self.backend.backlog()
        self._token_budget = int(parameters["token_budget"])
        self._cache = VectorCache(int(parameters["cached_texts"]))
        # Documents are bulk work, queries are latency-critical.
        low_priority = parameters["background"] and self.backend.device == "cpu"
        self._background = Background() if low_priority else None
        self.encoder = self._compute(load_encoder, self.backend, self.role)
        runtime = self.encoder.runtime
        self._stay = parameters["on_device"] and isinstance(runtime, PyTorchRuntime)
        if isinstance(runtime, NativeRuntime):
            runtime.threads = fair_threads(runtime.threads, runtime.nbytes)
        self._compute(warm_up, self.encoder, int(parameters["warm_up_batch"]), self._token_budget)
        self._cut = self.encoder.counts.truncated
        # Only after loading: at idle priority, start-up on a busy machine would stall.
        if self._background is not None:
            self._background.lower_priority()

    def _compute(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Run work, on the background thread if there is one."""
        return work(*arguments) if self._background is None else self._background.run(work, *arguments)

    def finalize(self) -> None:
        """Report the last metrics, and restore the priority so that the process can exit."""
        self.backend.end()
        if self._background is not None:
            self._background.restore_priority()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Return vectors or an error for each request."""
        begun = perf_counter()
        if why := self._backlog.overload_reason(len(requests)):
            return self.backend.overload(why, len(requests))
        answers: list[Any] = [None] * len(requests)
        asked = []
        for position, request in enumerate(requests):
            try:
                # The server drops requests cancelled in its queue. Checking again here takes 0.1 ms, as long as a
                # query of care-mini, so only documents are checked.
                if self.role == "document" and request.is_cancelled():
                    raise CareError("the client cancelled the request")
                texts = self.backend.array(request, "TEXT")
                assert texts is not None  # a required input
                clean = read_texts(texts, empty=self.role == "document")
                tasks = read_tasks(self.backend.array(request, "TASK"), len(clean))
                asked.append(_ValidRequest(position, clean, tasks))
            except CareError as mistake:
                answers[position] = self.backend.refusal(mistake)
        if asked:
            for one, answer in zip(asked, self._answers(asked), strict=True):
                answers[one.position] = answer
            self._backlog.record(len(requests), perf_counter() - begun)
        return answers

    def _answers(self, asked: Sequence[_ValidRequest]) -> list[Any]:
        try:
            vectors, tokens, times = self._compute(
                self._encode,
                [text for one in asked for text in one.texts],
                [task for one in asked for task in one.tasks],
            )
        except Exception as failure:  # every client gets an error, and the model keeps serving
            return [self.backend.failure(failure) for _ in asked]
        counts = [len(one.texts) for one in asked]
        return [
            self.backend.answer(EMBEDDING=rows, TOKENS=sizes, TIMES=np.tile(times, (len(sizes), 1)))
            for rows, sizes in zip(split(vectors, counts), split(tokens, counts), strict=True)
        ]

    def _encode(
        self, texts: list[str], tasks: list[Task]
    ) -> tuple[Any, NDArray[np.int32], NDArray[np.float32]]:
        """Return vectors, float32 ``[n, width]``, token counts ``[n, 1]``, and microseconds of both steps.

        On a GPU the vectors stay there for the scan.
        """
        begun = perf_counter()
        vectors: Any = np.empty((len(texts), self.encoder.spec.width), dtype=np.float32)
        sizes = np.empty((len(texts), 1), dtype=np.int32)
        misses: dict[Task, list[int]] = {}
        for i, (text, task) in enumerate(zip(texts, tasks, strict=True)):
            cached = self._cache.get(text, task)
            if cached is None:
                misses.setdefault(task, []).append(i)
            else:
                vectors[i], sizes[i] = cached
        rows = [
            ids
            for task, positions in misses.items()
            for ids in self.encoder.tokenize([texts[i] for i in positions], task)
        ]
        order = [i for positions in misses.values() for i in positions]
        tokenised = perf_counter()
        if self._stay:
            found = self.encoder.encode_tokens_on_device(
                rows, batch_size=len(rows), token_budget=self._token_budget
            )
            vectors = found.new_empty(found.shape)
            vectors[order] = found
        elif rows:
            vectors[order] = self.encoder.encode_tokens(
                rows, batch_size=len(rows), token_budget=self._token_budget
            )
        for i, ids in zip(order, rows, strict=True):
            sizes[i] = len(ids)
            self._cache.put(texts[i], tasks[i], vectors[i], len(ids))
        encoded = perf_counter()
        self._count(len(texts), len(texts) - len(rows), tokenised - begun, encoded - tokenised)
        return vectors, sizes, np.array([1e6 * (tokenised - begun), 1e6 * (encoded - tokenised)], np.float32)

    def _count(self, texts: int, cached: int, tokenise: float, encode: float) -> None:
        count, role = self.backend.count, self.role
        count("texts", "Texts asked for", texts, role=role)
        count("cached_texts", "Texts whose vector was in the cache", cached, role=role)
        count("tokenise_seconds", "Seconds spent on turning texts into tokens", tokenise, role=role)
        count("encode_seconds", "Seconds spent in the network", encode, role=role)
        cut = self.encoder.counts.truncated
        count(
            "truncated_texts",
            "Texts longer than the encoder takes, cut at their end",
            cut - self._cut,
            role=role,
        )
        self._cut = cut


class QueryEncoderModel(EncoderModel):
    """The query encoder as a model of the server."""

    role: Role = "query"


class DocumentEncoderModel(EncoderModel):
    """The document encoder as a model of the server."""

    role: Role = "document"


def load_model(backend: Backend) -> DualEncoder:
    """Load the dual encoder of a configuration.

    Raises
    ------
    CareError
        It cannot be found, or its revision is not the recorded one.
    """
    options = dict(backend.parameters["load"])
    for name in ("model", "query", "document", "base"):
        # Names such as care-mini or of the hub are not paths.
        if options.get(name) and (folder := backend.path(options[name], whole=True)).is_dir():
            options[name] = folder
    if backend.device != "cpu" or options.get("device") is None:
        options["device"] = backend.device
    model = DualEncoder.from_pretrained(**options)
    known = backend.parameters["care"]
    role = cast(Role, known.get("role", "document"))
    if model.revision(role) != known["revision"]:
        raise CareError(
            f"this repository was written for {role} encoder {known['revision']}, but {model.name} has "
            f"{model.revision(role)}; write the repository again"
        )
    return model


def load_encoder(backend: Backend, role: Role) -> Encoder:
    """Load one encoder of the dual encoder of a configuration."""
    return load_model(backend).encoder(role)


def warm_up(encoder: Encoder, batch: int, token_budget: int) -> None:
    """Warm up: encode single texts and full batches of several lengths.

    Allocates memory, compiles and selects kernels, captures graphs.
    """
    before = replace(encoder.counts)
    filler = encoder.tokenize(["高血压患者应低盐饮食，遵医嘱服药。" * 100])[0]
    for tokens in (*_WARM_UP_TOKENS, encoder.spec.max_tokens):
        row = filler[: min(tokens, encoder.spec.max_tokens)]
        for size in (1, max(1, min(batch, token_budget // len(row)))):
            encoder.encode_tokens([row] * size, batch_size=size, token_budget=token_budget)
        if len(row) == encoder.spec.max_tokens:
            break
    encoder.counts = before
