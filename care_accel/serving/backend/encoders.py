"""Texts to vectors as a served model does it: one encoder, its cache, its warm-up and its metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from care_accel.encoding import DualEncoder, Encoder, Role, Task
from care_accel.encoding.runtimes.pytorch import PyTorchRuntime
from care_accel.errors import CareError
from care_accel.serving.backend.tensors import Backend
from care_accel.serving.backend.vector_cache import VectorCache, key_of

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
    tokens : list of int
        Of each text.
    times : tuple of float
        Microseconds of tokenising and encoding.
    """

    vectors: Any
    tokens: list[int]
    times: tuple[float, float]


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
        runtime = self.encoder.runtime
        self._stay = parameters["on_device"] and isinstance(runtime, PyTorchRuntime)
        self._cache = VectorCache(0 if self._stay else int(parameters["cached_texts"]))
        warm_up(self.encoder, int(parameters["warm_up_batch"]), self._token_budget)
        self._cut = self.encoder.counts.truncated
        self._counters = [backend.counter(name, text, role) for name, text in _COUNTERS.items()]

    def encode(self, texts: Sequence[str], tasks: Sequence[Task]) -> Encoded:
        """Encode texts in batches of similar length within the token budget; texts of the cache are not encoded again."""
        begun = perf_counter()
        cache = self._cache
        keys = [key_of(text, task) for text, task in zip(texts, tasks, strict=True)] if cache.capacity else []
        cached = [cache.get(key) for key in keys] or [None] * len(texts)
        missing = [i for i, found in enumerate(cached) if found is None]
        rows = self._tokenize(texts, tasks, missing)
        tokenised = perf_counter()
        vectors: Any = self._encode_rows(rows) if rows else []
        sizes = [len(ids) for ids in rows]
        if cache.capacity:
            for i, vector, size in zip(missing, vectors, sizes, strict=True):
                cache.put(keys[i], vector, size)
        if len(missing) < len(texts):
            others = zip(vectors, sizes, strict=True)
            both = [next(others) if found is None else found for found in cached]
            vectors, sizes = np.stack([vector for vector, _ in both]), [size for _, size in both]
        encoded = perf_counter()
        cut = self.encoder.counts.truncated
        changes = len(texts), len(texts) - len(rows), tokenised - begun, encoded - tokenised, cut - self._cut
        self._cut = cut
        for counter, change in zip(self._counters, changes, strict=True):
            counter.add(change)
        return Encoded(vectors, sizes, (1e6 * (tokenised - begun), 1e6 * (encoded - tokenised)))

    def _tokenize(self, texts: Sequence[str], tasks: Sequence[Task], positions: list[int]) -> list[list[int]]:
        """Return the token ids of the texts at some positions."""
        rows: dict[int, list[int]] = {}
        for task in dict.fromkeys(tasks[i] for i in positions):
            of_task = [i for i in positions if tasks[i] == task]
            rows.update(zip(of_task, self.encoder.tokenize([texts[i] for i in of_task], task), strict=True))
        return [rows[i] for i in positions]

    def _encode_rows(self, rows: list[list[int]]) -> Any:
        encode = self.encoder.encode_tokens_on_device if self._stay else self.encoder.encode_tokens
        return encode(rows, batch_size=len(rows), token_budget=self._token_budget)


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
