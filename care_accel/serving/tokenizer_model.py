"""Python backend model of a tokenizer: TEXT to token ids, for a network in another backend.

It needs an encoder's tokenizer and spec, but neither weights nor torch, nor transformers for the tokenizers that
`plain_tokenizer` knows.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from care_accel.encoding.encoder import Encoder
from care_accel.encoding.loading.plain_tokenizer import PlainTokenizer, open_tokenizer
from care_accel.encoding.loading.vocabulary import Vocabulary
from care_accel.encoding.spec import EncoderSpec, Role, Task
from care_accel.errors import CareError
from care_accel.serving.backend.tensors import Backend, array, read_tasks, read_texts, required

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FOLDER = "tokenizer"  # within a model version
_COUNTERS = {
    "texts": "Texts encoded",
    "tokenise_seconds": "Seconds spent on turning texts into tokens",
    "truncated_texts": "Texts longer than the encoder takes, cut at their end",
}


class TokenizerModel:
    """Python backend model ``query_tokenizer`` and ``document_tokenizer``.

    Outputs are those of `Encoder.tokenize` and `Encoder.pad`: ``input_ids`` and ``attention_mask``, INT64 ``[n, length]``,
    and ``TOKENS``, INT32 ``[n, 1]``, the tokens of each text.

    The server batches consecutive requests for the network only if their shapes are equal. So sequences are padded to a
    few lengths, and requests tokenised together share a length if the padding stays within a limit.

    Parameters in the configuration, as JSON: ``care`` (the encoder), ``lengths``, and ``stretch``, the maximum ratio of
    padded to own length.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Load the tokenizer from the model's folder."""
        self.backend = Backend(args)
        parameters = self.backend.parameters
        self._role = cast(Role, parameters["care"]["role"])
        self._counters = [self.backend.counter(name, text, self._role) for name, text in _COUNTERS.items()]
        self._lengths: list[int] = parameters["lengths"]
        self._stretch = float(parameters["stretch"])
        folder = Path(args["model_repository"]) / args["model_version"] / FOLDER
        self.encoder = load_tokenizing(folder, EncoderSpec.from_dict(parameters["care"]["spec"]))

    def finalize(self) -> None:
        """Report the last metrics."""
        self.backend.end()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Return tokens or an error for each request."""
        answers: list[Any] = [None] * len(requests)
        asked: dict[int, tuple[list[str], list[Task]]] = {}
        for position, request in enumerate(requests):
            try:
                if request.is_cancelled():
                    raise CareError("the client cancelled the request")
                asked[position] = self._read(request)
            except CareError as mistake:
                answers[position] = self.backend.refusal(mistake)
        try:
            rows = iter(self._tokenize([*asked.values()]))
        except Exception as failure:  # every client gets an error, and the model keeps serving
            return [answer or self.backend.failure(failure) for answer in answers]
        tokens = {position: [next(rows) for _ in texts] for position, (texts, _) in asked.items()}
        longest = [max(map(len, one)) for one in tokens.values()]
        lengths = shared_lengths([length_for(self._lengths, n) for n in longest], self._stretch)
        for (position, one), length in zip(tokens.items(), lengths, strict=True):
            answers[position] = self._answer(one, length)
        return answers

    def _read(self, request: Any) -> tuple[list[str], list[Task]]:
        inputs = self.backend.inputs(request)
        texts = read_texts(required(inputs, "TEXT").as_numpy(), empty=self._role == "document")
        return texts, read_tasks(array(inputs, "TASK"), len(texts))

    def _tokenize(self, asked: Sequence[tuple[list[str], list[Task]]]) -> list[list[int]]:
        """Return the token ids of the texts of all requests, in order."""
        texts = [text for one, _ in asked for text in one]
        tasks = [task for _, one in asked for task in one]
        rows: list[list[int]] = [[] for _ in texts]
        begun, cut = perf_counter(), self.encoder.counts.truncated
        for task in dict.fromkeys(tasks):
            positions = [i for i, one in enumerate(tasks) if one == task]
            found = self.encoder.tokenize([texts[i] for i in positions], task)
            for position, ids in zip(positions, found, strict=True):
                rows[position] = ids
        changes = len(texts), perf_counter() - begun, self.encoder.counts.truncated - cut
        for counter, change in zip(self._counters, changes, strict=True):
            counter.add(change)
        return rows

    def _answer(self, rows: list[list[int]], length: int) -> Any:
        ids, mask = self.encoder.pad(rows, length)
        tokens = np.array([[len(row)] for row in rows], dtype=np.int32)
        return self.backend.answer(input_ids=ids, attention_mask=mask, TOKENS=tokens)


def length_for(lengths: Sequence[int], tokens: int) -> int:
    """Return the smallest of the ascending lengths that fits the tokens."""
    return lengths[bisect_left(lengths, tokens)]


def shared_lengths(lengths: Sequence[int], stretch: float) -> list[int]:
    """Return a padded length for each request, shared where the padding is within the limit.

    Parameters
    ----------
    lengths : sequence of int
        Own length of each request.
    stretch : float
        Maximum ratio of padded to own length.
    """
    shared = list(lengths)
    common = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if common > stretch * lengths[i] or not common:
            common = lengths[i]
        shared[i] = common
    return shared


def tokenizing(
    spec: EncoderSpec,
    tokenizer: PreTrainedTokenizerFast | PlainTokenizer,
    vocabulary: Vocabulary | None = None,
) -> Encoder:
    """Return an encoder that only tokenises and pads."""
    return Encoder(spec, tokenizer, _NoNetwork(), vocabulary)


def save_tokenizing(encoder: Encoder, folder: Path) -> None:
    """Save the tokenizer, and the vocabulary map if it was trimmed, for `load_tokenizing`.

    Raises
    ------
    CareError
        The tokenizer does not survive saving and loading.
    """
    encoder.tokenizer.save_pretrained(folder)
    if encoder.vocabulary is not None:
        encoder.vocabulary.save(folder)
    back = _by_transformers(folder)
    ours = encoder.tokenizer
    if (ours.backend_tokenizer.to_str(), ours.pad_token_id) != (
        back.backend_tokenizer.to_str(),
        back.pad_token_id,
    ):
        raise CareError(
            f"{ours.name_or_path}: its tokenizer changes when saved and loaded; serve it without --engine"
        )


def load_tokenizing(folder: Path, spec: EncoderSpec) -> Encoder:
    """Load what `save_tokenizing` wrote."""
    load = partial(_by_transformers, folder)
    plain = open_tokenizer(folder, load)
    return tokenizing(spec, load() if plain is None else plain, Vocabulary.load(folder))


def _by_transformers(folder: Path) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, truncation_side="right")


class _NoNetwork:
    """Placeholder for the network."""

    device = "cpu"

    def __call__(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        raise RuntimeError("this encoder was loaded to tokenise; it has no network")
