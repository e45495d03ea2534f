"""An encoder as a model of the inference server: TEXT in, EMBEDDING out, many requests in one batch."""

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

# Tokens a text of the batches that are encoded before the model is ready.
_WARM_UP_TOKENS = (8, 16, 32, 64, 128, 256, 512)


class _Asked(NamedTuple):
    """One request that can be answered."""

    position: int
    texts: list[str]
    tasks: list[Task]


class EncoderModel:
    """What ``model.py`` of ``query_encoder`` and ``document_encoder`` hands to the server.

    The requests that the server has collected are tokenised together and encoded in batches of similar length
    within a token budget. A vector does not depend on the texts beside it, so neither does an answer.

    Parameters of the configuration, as JSON: ``care`` (what the encoder is; see `care_accel.serving.repository.python_backend`),
    ``load`` (options of `DualEncoder.from_pretrained`), ``token_budget``, ``background`` (whether this process may
    compute only when no other wants to), ``cached_texts``, ``warm_up_batch``, ``queue`` and ``wait`` (see `Backlog`),
    ``on_device`` (whether vectors stay where PyTorch made them; none are kept then).
    """

    role: Role

    def initialize(self, args: dict[str, str]) -> None:
        """Load the encoder, compare it with what the configuration recorded, and warm it up."""
        self.backend = Backend(args)
        parameters = self.backend.parameters
        self._backlog = self.backend.backlog()
        self._token_budget = int(parameters["token_budget"])
        self._cache = VectorCache(int(parameters["cached_texts"]))
        # Documents are encoded in bulk while nobody waits, queries while somebody does.
        gives_way = parameters["background"] and self.backend.device == "cpu"
        self._background = Background() if gives_way else None
        self.encoder = self._compute(load_encoder, self.backend, self.role)
        runtime = self.encoder.runtime
        self._stay = parameters["on_device"] and isinstance(runtime, PyTorchRuntime)
        if isinstance(runtime, NativeRuntime):
            runtime.threads = fair_threads(runtime.threads, runtime.nbytes)
        self._compute(warm_up, self.encoder, int(parameters["warm_up_batch"]), self._token_budget)
        self._cut = self.encoder.counts.truncated
        if (
            self._background is not None
        ):  # not before: a server that starts on a busy machine would wait for it
            self._background.give_way()

    def _compute(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Do what takes long, in the background if this model's work is done there."""
        return work(*arguments) if self._background is None else self._background.do(work, *arguments)

    def finalize(self) -> None:
        """Write the last counts, and let the process end."""
        self.backend.end()
        if self._background is not None:
            self._background.compete()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request with its vectors, or with what was wrong with it."""
        begun = perf_counter()
        if why := self._backlog.excess(len(requests)):
            return self.backend.overload(why, len(requests))
        answers: list[Any] = [None] * len(requests)
        asked = []
        for position, request in enumerate(requests):
            try:
                # The server drops what a client gave up while it waited. To ask again here takes a tenth of a
                # millisecond, as long as a query of care-mini: documents are worth it.
                if self.role == "document" and request.is_cancelled():
                    raise CareError("the client has gone")
                texts = self.backend.array(request, "TEXT")
                assert texts is not None  # the configuration asks for it
                clean = read_texts(texts, empty=self.role == "document")
                tasks = read_tasks(self.backend.array(request, "TASK"), len(clean))
                asked.append(_Asked(position, clean, tasks))
            except CareError as mistake:
                answers[position] = self.backend.refusal(mistake)
        if asked:
            for one, answer in zip(asked, self._answers(asked), strict=True):
                answers[one.position] = answer
            self._backlog.took(len(requests), perf_counter() - begun)
        return answers

    def _answers(self, asked: Sequence[_Asked]) -> list[Any]:
        try:
            vectors, tokens, times = self._compute(
                self._encode,
                [text for one in asked for text in one.texts],
                [task for one in asked for task in one.tasks],
            )
        except Exception as failure:  # whatever it was, each client is told, and the next request is answered
            return [self.backend.failure(failure) for _ in asked]
        counts = [len(one.texts) for one in asked]
        return [
            self.backend.answer(EMBEDDING=rows, TOKENS=sizes, TIMES=np.tile(times, (len(sizes), 1)))
            for rows, sizes in zip(split(vectors, counts), split(tokens, counts), strict=True)
        ]

    def _encode(
        self, texts: list[str], tasks: list[Task]
    ) -> tuple[Any, NDArray[np.int32], NDArray[np.float32]]:
        """Return vectors, float32 ``[n, width]``, tokens of each text ``[n, 1]``, and microseconds of both steps.

        On a GPU the vectors stay there, where the scan reads them.
        """
        begun = perf_counter()
        vectors: Any = np.empty((len(texts), self.encoder.spec.width), dtype=np.float32)
        sizes = np.empty((len(texts), 1), dtype=np.int32)
        new: dict[Task, list[int]] = {}
        for place, (text, task) in enumerate(zip(texts, tasks, strict=True)):
            kept = self._cache.get(text, task)
            if kept is None:
                new.setdefault(task, []).append(place)
            else:
                vectors[place], sizes[place] = kept
        rows = [
            ids
            for task, places in new.items()
            for ids in self.encoder.tokenize([texts[place] for place in places], task)
        ]
        order = [place for places in new.values() for place in places]
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
        for place, ids in zip(order, rows, strict=True):
            sizes[place] = len(ids)
            self._cache.put(texts[place], tasks[place], vectors[place], len(ids))
        encoded = perf_counter()
        self._count(len(texts), len(texts) - len(rows), tokenised - begun, encoded - tokenised)
        return vectors, sizes, np.array([1e6 * (tokenised - begun), 1e6 * (encoded - tokenised)], np.float32)

    def _count(self, texts: int, kept: int, tokenise: float, encode: float) -> None:
        count, role = self.backend.count, self.role
        count("texts", "Texts asked for", texts, role=role)
        count("cached_texts", "Texts whose vector was known from before", kept, role=role)
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
    """Find the dual encoder that a configuration names.

    Raises
    ------
    CareError
        It cannot be found; or there is another encoder in its place than the one that was recorded.
    """
    options = dict(backend.parameters["load"])
    for name in ("model", "query", "document"):
        # A name such as care-mini or a hub's stays one.
        if options.get(name) and (place := backend.path(options[name], whole=True)).is_dir():
            options[name] = place
    if backend.device != "cpu" or options.get("device") is None:
        options["device"] = backend.device
    model = DualEncoder.from_pretrained(**options)
    known = backend.parameters["care"]
    role = cast(Role, known.get("role", "document"))
    if model.revision(role) != known["revision"]:
        raise CareError(
            f"this repository was written for {role} encoder {known['revision']}, but {model.name} has "
            f"{model.revision(role)}; write the repository anew"
        )
    return model


def load_encoder(backend: Backend, role: Role) -> Encoder:
    """Load one encoder of the dual encoder that a configuration names."""
    return load_model(backend).encoder(role)


def warm_up(encoder: Encoder, batch: int, token_budget: int) -> None:
    """Encode a batch of every length that texts can have, alone and full, so that no client pays for a first time.

    Memory is taken, kernels are compiled and chosen, graphs are captured.
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
