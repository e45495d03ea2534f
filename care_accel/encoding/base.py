"""What every encoder and every dual encoder can do, wherever its network runs."""

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


@dataclass
class EncodeCounts:
    """What happened to the texts of an encoder so far.

    Attributes
    ----------
    texts : int
        Texts encoded.
    tokens : int
        Tokens encoded, padding not counted.
    padded_tokens : int
        Tokens computed, padding counted.
    truncated : int
        Texts that were cut to ``max_tokens``.
    replaced_surrogates : int
        Lone surrogates that became U+FFFD.
    without_tokens : int
        Texts without a single token, encoded as the pad token.
    unknown_tokens : int
        Tokens outside a kept vocabulary, encoded as the tokenizer's unknown token.
    with_unknown_tokens : int
        Texts with such a token: only their vectors differ from those of the whole vocabulary.
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
    """Turns texts into vectors, as its spec says.

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
        token_budget: int = 16_384,
        show_progress: bool = False,
    ) -> NDArray[np.float32]:
        """Encode one text or many.

        Parameters
        ----------
        texts : str or sequence of str
            Empty texts are allowed (an inference server refuses empty queries). Lone surrogates become U+FFFD and
            are counted; texts beyond ``max_tokens`` are truncated, counted, and reported once.
        task : {"retrieval", "reranking", "sts"}
            Chooses the prompt.
        batch_size : int
            Maximum texts in a batch; an inference server may take fewer.
        token_budget : int
            Maximum tokens in a batch, padding counted. An inference server has its own and ignores this one.
        show_progress : bool
            Draw a progress bar on standard error.

        Returns
        -------
        numpy.ndarray
            float32 ``[width]`` for a str, else ``[n, width]`` in the order of ``texts``.

        Raises
        ------
        CareError
            Something that is no str (its position is named), an unknown task, sizes below 1, or what the runtime
            or the inference server refuses.
        """
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
        """Return float32 ``[n, width]`` in the order of ``texts``, and report progress."""

    @abstractmethod
    def encode_timed(
        self, texts: Sequence[str], task: Task = "retrieval"
    ) -> tuple[NDArray[np.float32], float, float]:
        """Encode, and tell where the time went.

        Returns
        -------
        vectors : numpy.ndarray
            float32 ``[n, width]``.
        tokenise, encode : float
            Microseconds of the wall clock; of an inference server, its own. An answer from its cache has those of
            when it was computed.
        """


class MtebModel(Protocol):
    """A model as mteb takes it: ``mteb.models.EncoderProtocol`` and ``SearchProtocol`` in one."""

    @property
    def mteb_model_meta(self) -> Any:
        """What mteb records of the model."""
        ...

    def encode(self, inputs: Any, **context: Any) -> Any:
        """Encode mteb's batches."""
        ...

    def index(self, corpus: Any, **context: Any) -> None:
        """Encode and index the documents of a task."""
        ...

    def search(self, queries: Any, **context: Any) -> dict[str, dict[str, float]]:
        """Return the best documents of every query."""
        ...


class BaseDualEncoder(ABC):
    """A query encoder and a document encoder of one vector space; the inner product is the score.

    Attributes
    ----------
    name : str
    width : int
        Length of every vector.
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
            float32 ``[width]`` for a str, else ``[n, width]``. Shorter than 1 where the model normalises
            before it slices.
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
        """Return a hash of a role's encoder: its files and every field of its spec that matters.

        An index records the document encoder's, so that no other encoder's queries are ever compared
        with its vectors.
        """

    @abstractmethod
    def choice(self, role: Role) -> Choice:
        """Return what runs a role's encoder, and why."""

    @abstractmethod
    def provenance(self, role: Role) -> dict[str, Any]:
        """Return what a reader needs to get the same encoder of a role again."""

    @abstractmethod
    def _explanation(self) -> list[str]:
        """Return what runs where and why: the lines that `explain` prints below the model's own."""

    def explain(self) -> str:
        """Print, and return, what runs where and why: a line a role, and one for every faster runtime passed over."""
        kind = "symmetric" if self.symmetric else "asymmetric"
        text = "\n".join([f"{self.name}: {kind}, width {self.width}", *self._explanation()])
        print(text)
        return text

    def as_mteb(self, **options: Any) -> MtebModel:
        """Return this model as one that ``mteb.evaluate`` takes: `care_accel.eval.as_mteb` (needs the extra ``eval``)."""
        return cast(MtebModel, import_module("care_accel.eval").as_mteb(self, **options))


def checked_texts(texts: Sequence[str]) -> list[str]:
    """Return the texts as a list.

    Raises
    ------
    CareError
        There is something that is no str; its position is named.
    """
    if isinstance(texts, bytes | Mapping) or not isinstance(texts, Iterable):
        raise CareError(f"texts are a {type(texts).__name__}; give a str or a list of str")
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise CareError(f"text {i} is a {type(text).__name__}, not a str")
    return texts
