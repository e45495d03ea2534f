"""An encoder for hours of work: batches that do not fit are halved, and no vector that is useless is handed on."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from care_accel.encoding.base import BaseEncoder
from care_accel.encoding.spec import Task
from care_accel.errors import CareError
from care_accel.progress import Advance

log = logging.getLogger(__name__)

# Texts of similar length that are encoded in one call: what is done again after memory ran out.
_SLICE = 1024
_SMALLEST_BUDGET = 64
# Tokens of a short text.
_SHORT = 16
# How `Encoder` says it.
_NOT_FINITE = re.compile(r"the vector of text (\d+) is not finite")
# After so many calls that fit, a halved batch is doubled again.
_GROW_AFTER = 16


class UselessVector(CareError):
    """The vector of a text is zero or not finite: the same on every machine.

    Attributes
    ----------
    text : str
    """

    def __init__(self, text: str) -> None:
        super().__init__("a vector is zero or not finite")
        self.text = text


class SteadyEncoder(BaseEncoder):
    """Encodes texts, longest first, and goes on with smaller batches where memory runs out.

    Parameters
    ----------
    encoder : BaseEncoder
    batch_tokens : int, optional
        Most tokens of a batch, padding included; by default the encoder's.

    Attributes
    ----------
    halved : int
        How often a batch did not fit.
    """

    def __init__(self, encoder: BaseEncoder, batch_tokens: int | None = None) -> None:
        self.spec = encoder.spec
        self.counts = encoder.counts
        self.halved = 0
        self._encoder = encoder
        self._batch_tokens = batch_tokens
        self._shrunk = 0
        self._fitted = 0

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, None of an encoder without one."""
        return getattr(self._encoder, "tokenizer", None)

    def _encode(
        self, texts: list[str], task: Task, batch_size: int, token_budget: int, advance: Advance
    ) -> NDArray[np.float32]:
        if self._batch_tokens is not None:
            # As many short texts as have room.
            token_budget = self._batch_tokens
            batch_size = max(batch_size, token_budget // _SHORT)
        vectors = np.empty((len(texts), self.spec.width), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        for start in range(0, len(order), _SLICE):
            some = order[start : start + _SLICE]
            vectors[some] = self._fitting([texts[i] for i in some], task, batch_size, token_budget)
            advance(len(some))
        return vectors

    def encode_timed(
        self, texts: Sequence[str], task: Task = "retrieval"
    ) -> tuple[NDArray[np.float32], float, float]:
        return self._encoder.encode_timed(texts, task)

    def _fitting(
        self, texts: list[str], task: Task, batch_size: int, token_budget: int
    ) -> NDArray[np.float32]:
        while True:
            size = max(batch_size >> self._shrunk, 1)
            budget = max(token_budget >> self._shrunk, _SMALLEST_BUDGET)
            try:
                vectors = self._encoder.encode(texts, task=task, batch_size=size, token_budget=budget)
            except Exception as cause:
                if not is_out_of_memory(cause):
                    if found := _NOT_FINITE.search(str(cause)):
                        raise UselessVector(texts[int(found[1])]) from None
                    raise
                if size == 1 and budget == _SMALLEST_BUDGET:
                    raise CareError(f"one text does not fit into memory: {_line(cause)}") from None
            else:
                break
            self.halved += 1
            self._shrunk, self._fitted = self._shrunk + 1, 0
            log.warning("memory ran out at %d texts and %d tokens a batch; tried with half", size, budget)
            _free_memory()
        self._fitted += 1
        if self._shrunk and self._fitted >= _GROW_AFTER:
            self._shrunk, self._fitted = self._shrunk - 1, 0
        useful = np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)
        if not useful.all():
            raise UselessVector(texts[int(np.argmin(useful))])
        return vectors


def is_out_of_memory(cause: Exception) -> bool:
    """Return whether an error says that memory ran out, of the machine or of a GPU."""
    text = f"{type(cause).__name__} {cause}".lower()
    return isinstance(cause, MemoryError) or "out of memory" in text or "outofmemory" in text


def _free_memory() -> None:
    import sys

    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _line(cause: Exception) -> str:
    return " ".join(str(cause).split())[:300] or type(cause).__name__
