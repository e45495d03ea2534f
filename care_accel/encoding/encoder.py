"""The local encoder of one role: texts to embeddings, in input order."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from care_accel import _native
from care_accel.encoding.base import TOKEN_BUDGET, BaseEncoder, EncodeCounts, checked_texts
from care_accel.encoding.batching import plan_batches
from care_accel.encoding.loading.vocabulary import Vocabulary
from care_accel.encoding.pickling import Origin
from care_accel.encoding.runtimes import UNPOOLED, PackedRuntime, Runtime
from care_accel.encoding.runtimes.pytorch import PyTorchRuntime
from care_accel.encoding.spec import PLAIN, EncoderSpec, Task
from care_accel.errors import CareError, require_count
from care_accel.files import replace_lone_surrogates
from care_accel.progress import Advance

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

    from care_accel.encoding.loading.plain_tokenizer import PlainTokenizer

log = logging.getLogger(__name__)


class Tokens(list[int]):
    """Token ids of a text, of which pooling leaves out the first ones; an ordinary list where it leaves out none.

    Attributes
    ----------
    unpooled : int
        Number of tokens that are not pooled, less than all.
    """

    def __init__(self, ids: Sequence[int], unpooled: int) -> None:
        super().__init__(ids)
        self.unpooled = unpooled


# Texts tokenised and sorted by length at a time: enough for batches of similar length, little memory.
_WINDOW = 16_384


class Encoder(BaseEncoder):
    """Encodes texts into embeddings, as configured by its spec.

    An embedding does not depend on the other texts in the batch: alone or in any batch it is the same to 1e-5 in
    float32.

    Parameters
    ----------
    spec : EncoderSpec
    tokenizer : transformers.PreTrainedTokenizerFast or PlainTokenizer
        Without a pad token, token 0 fills up batches, behind the mask.
    runtime : Runtime
        Executes the network.
    vocabulary : Vocabulary, optional
        The pruned vocabulary, if the network has one.

    Attributes
    ----------
    counts : EncodeCounts
        Totals since construction.
    origin : Origin or None
        How the encoder was loaded. A pickle of the encoder holds this instead of weights; an encoder without it cannot be
        pickled. A copy shares the network and has counts of its own.

    Raises
    ------
    CareError
        ``max_tokens`` is smaller than the number of special tokens that the tokenizer adds to a text.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        tokenizer: PreTrainedTokenizerFast | PlainTokenizer,
        runtime: Runtime,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        if spec.max_tokens < (added := tokenizer.num_special_tokens_to_add()):
            raise CareError(
                f"encoder spec: max_tokens is {spec.max_tokens}, but the tokenizer adds {added} special tokens to "
                "each text; use a larger max_tokens"
            )
        self.spec = spec
        self.tokenizer = tokenizer
        self.runtime = runtime
        self.vocabulary = vocabulary
        self.counts = EncodeCounts()
        self.origin: Origin | None = None
        self._pad_token = int(tokenizer.pad_token_id or 0)
        self._pad = self._pad_token if vocabulary is None else int(vocabulary.rows[self._pad_token])
        self._prompt_lengths: dict[str, int] = {}
        self._warned_truncation = self._warned_unknown = False

    def _encode(
        self, texts: list[str], task: Task, batch_size: int, token_budget: int, advance: Advance
    ) -> NDArray[np.float32]:
        vectors = np.empty((len(texts), self.spec.width), dtype=np.float32)
        for start, window in self._tokenized_windows(texts, task):
            self._fill(vectors[start : start + len(window)], window, batch_size, token_budget, advance)
        return self._finish(vectors)

    def encode_tokens(
        self, rows: Sequence[list[int]], *, batch_size: int = 64, token_budget: int = TOKEN_BUDGET
    ) -> NDArray[np.float32]:
        """Encode token ids from `tokenize`, to time or schedule tokenisation and encoding separately.

        Returns
        -------
        numpy.ndarray
            float32 ``[n, width]``.

        Raises
        ------
        CareError
            A size is below 1, or an embedding is not finite.
        """
        for name, size in (("batch_size", batch_size), ("token_budget", token_budget)):
            require_count(name, size)
        vectors = np.empty((len(rows), self.spec.width), dtype=np.float32)
        self._fill(vectors, rows, batch_size, token_budget)
        return self._finish(vectors)

    def encode_tokens_on_device(
        self, rows: Sequence[list[int]], *, batch_size: int = 64, token_budget: int = TOKEN_BUDGET
    ) -> torch.Tensor:
        """Encode as `encode_tokens` does, and leave the embeddings on the runtime's device, for example for a GPU scan.

        Returns
        -------
        torch.Tensor
            float32 ``[n, width]`` on ``runtime.device``.

        Raises
        ------
        CareError
            The runtime is not PyTorch, or as in `encode_tokens`.
        """
        if not isinstance(self.runtime, PyTorchRuntime):
            raise CareError("encode_tokens_on_device needs runtime='pytorch'; use encode_tokens")
        for name, size in (("batch_size", batch_size), ("token_budget", token_budget)):
            require_count(name, size)
        import torch

        queued, order = self._queue(self.runtime, rows, batch_size, token_budget)
        vectors = torch.empty_like(queued)
        vectors[order] = queued
        finite = torch.isfinite(vectors).all(dim=1).cpu().numpy()
        if not finite.all():
            self._refuse(finite)
        self._count(len(vectors))
        return vectors

    def encode_timed(
        self, texts: Sequence[str], task: Task = "retrieval"
    ) -> tuple[NDArray[np.float32], float, float]:
        start = perf_counter()
        rows = self.tokenize(checked_texts(texts), task)
        tokenised = perf_counter()
        vectors = self.encode_tokens(rows)
        return vectors, 1e6 * (tokenised - start), 1e6 * (perf_counter() - tokenised)

    def _fill(
        self,
        vectors: NDArray[np.float32],
        rows: Sequence[list[int]],
        batch_size: int,
        token_budget: int,
        advance: Advance | None = None,
    ) -> None:
        """Write the vectors of some token ids, in their order."""
        if isinstance(self.runtime, PyTorchRuntime):
            queued, order = self._queue(self.runtime, rows, batch_size, token_budget, advance)
            vectors[order] = queued.cpu().numpy()
            return
        if self._packing(rows) and 0 < len(rows) <= batch_size and sum(map(len, rows)) <= token_budget:
            vectors[:] = self._run(rows)  # without padding there is nothing to sort
            if advance:
                advance(len(rows))
            return
        for batch in plan_batches([len(ids) for ids in rows], batch_size, token_budget):
            vectors[batch] = self._run([rows[i] for i in batch])
            if advance:
                advance(len(batch))

    def _queue(
        self,
        runtime: PyTorchRuntime,
        rows: Sequence[list[int]],
        batch_size: int,
        token_budget: int,
        advance: Advance | None = None,
    ) -> tuple[torch.Tensor, list[int]]:
        """Return the vectors of some token ids on the runtime's device, and the position of each in ``rows``.

        Nothing waits for a GPU between two batches, so that it has the next one when it is done with one.
        """
        import torch

        order: list[int] = []
        found: list[torch.Tensor] = []
        for batch in plan_batches([len(ids) for ids in rows], batch_size, token_budget):
            texts = [rows[i] for i in batch]
            if runtime.packs(texts):
                self._count_unpadded(texts)
                found.append(runtime.rows_on_device(texts))
            else:
                found.append(runtime.on_device(*self._padded(texts)))
            order += batch
            if advance:
                advance(len(batch))
        empty = torch.empty((0, self.spec.width), dtype=torch.float32, device=runtime.device)
        return torch.cat(found or [empty]), order

    def _finish(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        if not _native.all_finite(vectors):
            self._refuse(np.all(np.isfinite(vectors), axis=1))
        self._count(len(vectors))
        return vectors

    def _refuse(self, finite: NDArray[np.bool_]) -> NoReturn:
        raise CareError(
            f"the vector of text {int(np.argmin(finite))} is not finite; the weights are corrupt, or "
            f"{self.spec.dtype} overflows in this network (try dtype='float32')"
        )

    def _count(self, texts: int) -> None:
        """Count encoded texts; log pending warnings."""
        self.counts.texts += texts
        self._warn_truncation()
        self._warn_unknown()

    def tokenize(self, texts: Sequence[str], task: Task = "retrieval") -> list[list[int]]:
        """Return the token ids of each text with prompt and special tokens, truncated to ``max_tokens``.

        With a pruned vocabulary the ids are rows of the embedding matrix. A text without tokens gets the pad token, so
        that every text has an embedding.
        """
        if not texts:
            return []
        formatted = [self.spec.format(self._sanitize(text), task) for text in texts]
        limit = self.spec.max_tokens
        encoded = self.tokenizer(
            formatted, truncation=True, max_length=limit, return_attention_mask=False, verbose=False
        )
        ids: list[list[int]] = encoded["input_ids"]
        for i, row in enumerate(ids):
            if len(row) >= limit:
                self.counts.truncated += self._was_truncated(encoded, i)
            if not row:
                self.counts.without_tokens += 1
                ids[i] = [self._pad_token]
        if self.vocabulary is not None:
            ids, unknown = self.vocabulary.translate(ids)
            self.counts.unknown_tokens += sum(unknown)
            self.counts.with_unknown_tokens += sum(map(bool, unknown))
        if not self.spec.include_prompt and (prompt := self._prompt_length(task)):
            return [Tokens(row, min(prompt, len(row) - 1)) for row in ids]
        return ids

    def _prompt_length(self, task: Task) -> int:
        """Return the number of tokens before a text: of the prompt, and special ones before it.

        As in sentence-transformers, these are the tokens of the prompt alone, without a special one at the end.
        """
        prompt = self.spec.prompt(task).partition(PLAIN)[0]
        if prompt and prompt not in self._prompt_lengths:
            ids = self.tokenizer(prompt, truncation=True, max_length=self.spec.max_tokens)["input_ids"]
            ends_special = bool(ids) and ids[-1] in self.tokenizer.all_special_ids
            self._prompt_lengths[prompt] = len(ids) - ends_special
        return self._prompt_lengths.get(prompt, 0)

    def _tokenized_windows(self, texts: list[str], task: Task) -> Iterator[tuple[int, list[list[int]]]]:
        """Yield the start and the token ids of each window; the next window is tokenised while this one is encoded."""
        if len(texts) <= _WINDOW:  # no thread for a few queries
            if texts:
                yield 0, self.tokenize(texts, task)
            return
        with ThreadPoolExecutor(1, thread_name_prefix="tokenize") as pool:
            pending = pool.submit(self.tokenize, texts[:_WINDOW], task)
            for start in range(0, len(texts), _WINDOW):
                window = pending.result()
                if (following := start + _WINDOW) < len(texts):
                    pending = pool.submit(self.tokenize, texts[following : following + _WINDOW], task)
                yield start, window

    @staticmethod
    def _was_truncated(encoded: object, row: int) -> bool:
        return bool(encoded.encodings[row].overflowing)  # type: ignore[attr-defined]

    def _sanitize(self, text: str) -> str:
        # Tokenizers reject lone surrogates.
        clean, replaced = replace_lone_surrogates(text)
        self.counts.replaced_surrogates += replaced
        return clean

    def pad(
        self, rows: Sequence[list[int]], tokens: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pad token ids from `tokenize` to one length.

        Parameters
        ----------
        rows : sequence of list of int
            At least one.
        tokens : int, optional
            Padded length; by default, and at least, that of the longest row.

        Returns
        -------
        ids, mask : numpy.ndarray
            int64 ``[n, tokens]``; the attention mask is 0 at padding, and 2 at tokens that attention sees and pooling leaves
            out (``include_prompt`` of the spec).
        """
        longest = max(len(row) for row in rows) if tokens is None else tokens
        ids = np.full((len(rows), longest), self._pad, dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            start = longest - len(row) if self.spec.padding_side == "left" else 0
            ids[i, start : start + len(row)] = row
            mask[i, start : start + len(row)] = 1
            if isinstance(row, Tokens):
                mask[i, start : start + row.unpooled] = UNPOOLED
        return ids, mask

    def _packing(self, rows: Sequence[list[int]]) -> PackedRuntime | None:
        """Return the runtime if it takes these texts without padding."""
        runtime = cast(PackedRuntime, self.runtime) if hasattr(self.runtime, "packs") else None
        return runtime if runtime and runtime.packs(rows) else None

    def _run(self, rows: Sequence[list[int]]) -> NDArray[np.float32]:
        packing = self._packing(rows)
        if packing is None:
            return self.runtime(*self._padded(rows))
        self._count_unpadded(rows)
        return packing.encode_rows(rows)

    def _count_unpadded(self, rows: Sequence[list[int]]) -> None:
        tokens = sum(map(len, rows))
        self.counts.tokens += tokens
        self.counts.padded_tokens += tokens

    def _padded(self, rows: Sequence[list[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        ids, mask = self.pad(rows)
        self.counts.tokens += int(np.count_nonzero(mask))
        self.counts.padded_tokens += ids.size
        return ids, mask

    def __reduce__(self) -> tuple[Any, ...]:
        if self.origin is None:
            raise CareError(
                "this encoder was not loaded from a folder, so that a pickle cannot say where it is; pickle an encoder of "
                "DualEncoder.from_pretrained"
            )
        return self.origin.load, ()

    def __copy__(self) -> Encoder:
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__, counts=dataclasses.replace(self.counts))
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Encoder:
        return self.__copy__()

    def _warn_unknown(self) -> None:
        if self.counts.unknown_tokens and not self._warned_unknown:
            self._warned_unknown = True
            log.warning(
                "%d of %d texts have tokens outside the pruned vocabulary, encoded as the unknown token (logged once; "
                "see Encoder.counts)",
                self.counts.with_unknown_tokens,
                self.counts.texts,
            )

    def _warn_truncation(self) -> None:
        if self.counts.truncated and not self._warned_truncation:
            self._warned_truncation = True
            log.warning(
                "%d of %d texts were longer than %d tokens and were truncated (logged once; see Encoder.counts)",
                self.counts.truncated,
                self.counts.texts,
                self.spec.max_tokens,
            )
