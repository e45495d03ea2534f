"""Texts to vectors as a served model does it: one encoder, its cache, its warm-up and its metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from care_accel.encoding import DualEncoder, Encoder, Role, Task
from care_accel.encoding.runtimes.native import NativeRuntime
from care_accel.encoding.runtimes.pytorch import PyTorchRuntime
from care_accel.errors import CareError
from care_accel.serving.backend.tensors import Backend, fair_threads
from care_accel.serving.backend.vector_cache import VectorCache

# Sequence lengths of the warm-up batches.
_WARM_UP_TOKENS = (8, 16, 32, 64, 128, 256, 512)
_COUNTERS = {
    "texts": "Texts asked for",
    "cached_texts": "Texts whose vector was in the cache",
    "tokenise_seconds": "Seconds spent on turning texts into tokens",
    "encode_seconds": "Seconds spent in the network",
    "truncated_texts": "Texts longer than the encoder takes, cut at their end",
}


class Encoded(NamedTuple):
    """Vectors of texts, and what they took.

    Attributes
    ----------
    vectors : numpy.ndarray or torch.Tensor
        float32 ``[n, width]``; a tensor if they stay on the device.
    tokens : numpy.ndarray
        int32 ``[n, 1]``.
    times : numpy.ndarray
        float32 ``[2]``: microseconds of tokenising and encoding.
    """

    vectors: Any
    tokens: NDArray[np.int32]
    times: NDArray[np.float32]


class TextVectors:
    """The encoder of a configuration, warmed up: texts to vectors.

    Parameters of the configuration: ``load`` and ``care`` (see `load_model`), ``token_budget``, ``cached_texts``,
    ``warm_up_batch`` and ``on_device`` (leave PyTorch's vectors on the device; disables the cache).

    Parameters
    ----------
    backend : Backend
    role : {"query", "document"}
    revisions : mapping of str to str
        As in `load_model`.

    Attributes
    ----------
    encoder : Encoder
    """

    def __init__(self, backend: Backend, role: Role, revisions: Mapping[Role, str]) -> None:
        parameters = backend.parameters
        self.encoder = load_model(backend, revisions).encoder(role)
        self._token_budget = int(parameters["token_budget"])
        self._cache = VectorCache(int(parameters["cached_texts"]))
        runtime = self.encoder.runtime
        self._stay = parameters["on_device"] and isinstance(runtime, PyTorchRuntime)
        if isinstance(runtime, NativeRuntime):
            runtime.threads = fair_threads(runtime.threads, runtime.nbytes)
        warm_up(self.encoder, int(parameters["warm_up_batch"]), self._token_budget)
        self._cut = self.encoder.counts.truncated
        self._counters = [backend.counter(name, text, role) for name, text in _COUNTERS.items()]

    def encode(self, texts: Sequence[str], tasks: Sequence[Task]) -> Encoded:
        """Encode texts in batches of similar length within the token budget; texts of the cache are not encoded again."""
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
        cut = self.encoder.counts.truncated
        changes = len(texts), len(texts) - len(rows), tokenised - begun, encoded - tokenised, cut - self._cut
        self._cut = cut
        for counter, change in zip(self._counters, changes, strict=True):
            counter.add(change)
        times = np.array([1e6 * (tokenised - begun), 1e6 * (encoded - tokenised)], np.float32)
        return Encoded(vectors, sizes, times)


def load_model(backend: Backend, revisions: Mapping[Role, str]) -> DualEncoder:
    """Load the dual encoder of a configuration, by its parameter ``load``: options of `DualEncoder.from_pretrained`.

    Parameters
    ----------
    backend : Backend
    revisions : mapping of str to str
        The recorded revision of each role that is used.

    Raises
    ------
    CareError
        It cannot be found, or a revision is not the recorded one.
    """
    options = dict(backend.parameters["load"])
    for name in ("model", "query", "document", "base"):
        # Names such as care-mini or of the hub are not paths.
        if options.get(name) and (folder := backend.path(options[name], whole=True)).is_dir():
            options[name] = folder
    if backend.device != "cpu" or options.get("device") is None:
        options["device"] = backend.device
    model = DualEncoder.from_pretrained(**options)
    for role, recorded in revisions.items():
        if (found := model.revision(role)) != recorded:
            raise CareError(
                f"this repository was written for {role} encoder {recorded}, but {model.name} has {found}; write the "
                "repository again"
            )
    return model


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
