"""Base classes of encoders and dual encoders, local or served."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from care_accel.encoding.choice import Choice
from care_accel.encoding.spec import EncoderSpec, Role, Task
from care_accel.errors import CareError, require_count
from care_accel.progress import Advance, progress_bar

TOKEN_BUDGET = 16_384  # default maximum of tokens per batch, padding included


@dataclass
class EncodeCounts:
    """Counters of an encoder since its construction.

    Attributes
    ----------
    texts : int
        Texts encoded.
    tokens : int
        Tokens encoded, without padding.
    padded_tokens : int
        Tokens computed, with padding.
    truncated : int
        Texts truncated to ``max_tokens``.
    replaced_surrogates : int
        Lone surrogates replaced by U+FFFD.
    without_tokens : int
        Texts that have no tokens; they are encoded as the pad token.
    unknown_tokens : int
        Tokens outside a pruned vocabulary, encoded as the tokenizer's unknown token.
    with_unknown_tokens : int
        Texts with such a token. Only their embeddings differ from those of the full vocabulary.
    """

    texts: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    truncated: int = 0
    replaced_surrogates: int = 0
    without_tokens: int = 0
    unknown_tokens: int = 0
    with_unknown_tokens: int = 0


class BaseEncoder(ABC):
    """Encodes texts into embeddings, as configured by its spec.

    Attributes
    ----------
    spec : EncoderSpec
    counts : EncodeCounts
        Totals since construction.
    """

    spec: EncoderSpec
    counts: EncodeCounts

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        task: Task = "retrieval",
        batch_size: int = 64,
        token_budget: int | None = None,
        show_progress: bool = False,
    ) -> NDArray[np.float32]:
        """Encode one text or several.

        Parameters
        ----------
        texts : str or sequence of str
            Empty texts are allowed (an inference server rejects empty queries). Lone surrogates are replaced by
            U+FFFD and counted. Texts longer than ``max_tokens`` are truncated and counted; one warning is logged.
        task : {"retrieval", "reranking", "sts"}
            Selects the prompt.
        batch_size : int
            Maximum texts per batch; an inference server may use smaller batches.
        token_budget : int, optional
            Maximum tokens per batch, padding included; 16,384 by default. Ignored by an inference server, which has its
            own limit.
        show_progress : bool
            Show a progress bar on standard error.

        Returns
        -------
        numpy.ndarray
            float32 ``[width]`` for a str, else ``[n, width]`` in the order of ``texts``.

        Raises
        ------
        CareError
            A text is not a str (the message gives its position), the task is unknown, a size is below 1, or the
            runtime or the inference server rejects the request.
        """
        token_budget = TOKEN_BUDGET if token_budget is None else token_budget
        for name, size in (("batch_size", batch_size), ("token_budget", token_budget)):
            require_count(name, size)
        self.spec.prompt(task)
        rows = checked_texts([texts] if isinstance(texts, str) else texts)
        with progress_bar("encoding", len(rows), show=show_progress) as advance:
            vectors = self._encode(rows, task, batch_size, token_budget, advance)
        return vectors[0] if isinstance(texts, str) else vectors

    @abstractmethod
    def _encode(
        self, texts: list[str], task: Task, batch_size: int, token_budget: int, advance: Advance
    ) -> NDArray[np.float32]:
        """Return float32 ``[n, width]`` in the order of ``texts``; report progress to ``advance``."""

    @abstractmethod
    def encode_timed(
        self, texts: Sequence[str], task: Task = "retrieval"
    ) -> tuple[NDArray[np.float32], float, float]:
        """Encode, and measure tokenisation and encoding separately.

        Returns
        -------
        vectors : numpy.ndarray
            float32 ``[n, width]``.
        tokenise, encode : float
            Wall-clock time in microseconds; for an inference server, as measured by the server. A cached response
            reports the times of its original computation.
        """


class MtebEncoder(Protocol):
    """A model for mteb: ``mteb.models.EncoderProtocol`` and ``SearchProtocol`` combined."""

    @property
    def mteb_model_meta(self) -> Any:
        """Model metadata for mteb."""
        ...

    def encode(self, inputs: Any, **context: Any) -> Any:
        """Encode mteb's batches."""
        ...

    def index(self, corpus: Any, **context: Any) -> None:
        """Encode and index a task's corpus."""
        ...

    def search(self, queries: Any, **context: Any) -> dict[str, dict[str, float]]:
        """Return the top documents for each query."""
        ...


class BaseDualEncoder(ABC):
    """A query encoder and a document encoder that share a vector space; the score is the inner product.

    Attributes
    ----------
    name : str
    width : int
        Embedding dimension.
    symmetric : bool
        Whether one network serves both roles.
    """

    name: str
    width: int
    symmetric: bool

    def encode_query(
        self, texts: str | Sequence[str], *, task: Task = "retrieval", **options: Any
    ) -> NDArray[np.float32]:
        """Encode queries; see `Encoder.encode` for the options (batch_size, token_budget, show_progress).

        Returns
        -------
        numpy.ndarray
            float32 ``[width]`` for a str, else ``[n, width]``.
        """
        return self.encoder("query").encode(texts, task=task, **options)

    def encode_document(
        self, texts: str | Sequence[str], *, task: Task = "retrieval", **options: Any
    ) -> NDArray[np.float32]:
        """Encode documents; see `Encoder.encode` for the options (batch_size, token_budget, show_progress).

        Returns
        -------
        numpy.ndarray
            float32 ``[width]`` for a str, else ``[n, width]``. The L2 norm is at most 1 if the model normalises before
            slicing.
        """
        return self.encoder("document").encode(texts, task=task, **options)

    @abstractmethod
    def encoder(self, role: Role) -> BaseEncoder:
        """Return the encoder of a role."""

    @abstractmethod
    def spec(self, role: Role) -> EncoderSpec:
        """Return the spec of a role."""

    @abstractmethod
    def revision(self, role: Role) -> str:
        """Return a hash of a role's encoder: its files and the fields of its spec that affect its vectors.

        An index records the revision of the document encoder that made it. Searching it with another revision is
        refused.
        """

    @abstractmethod
    def choice(self, role: Role) -> Choice:
        """Return the runtime of a role's encoder, and the reason for the choice."""

    @abstractmethod
    def provenance(self, role: Role) -> dict[str, Any]:
        """Return what identifies a role's encoder: where it was loaded from, hashes, runtime and spec."""

    @abstractmethod
    def _explanation(self) -> list[str]:
        """Return the lines that `explain` prints below the model's name."""

    def explain(self) -> str:
        """Print and return the runtime of each role with the reason, and why faster runtimes were rejected."""
        kind = "symmetric" if self.symmetric else "asymmetric"
        text = "\n".join([f"{self.name}: {kind}, width {self.width}", *self._explanation()])
        print(text)
        return text

    def as_mteb(self, **options: Any) -> MtebEncoder:
        """Wrap this model for ``mteb.evaluate``; see `care_accel.eval.as_mteb` (needs the extra ``eval``)."""
        return cast(MtebEncoder, import_module("care_accel.eval").as_mteb(self, **options))


def checked_texts(texts: Sequence[str]) -> list[str]:
    """Return the texts as a list, after checking their types.

    Raises
    ------
    CareError
        An item is not a str; the message gives its position.
    """
    if isinstance(texts, bytes | Mapping) or not isinstance(texts, Iterable):
        raise CareError(f"texts are a {type(texts).__name__}; give a str or a list of str")
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise CareError(f"text {i} is a {type(text).__name__}, not a str")
    return texts
