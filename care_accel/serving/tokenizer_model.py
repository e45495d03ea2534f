"""The tokenizer alone as a model of the inference server: TEXT in, token ids out, for a network that runs elsewhere.

It needs an encoder's tokenizer and spec but none of its weights, and no torch.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from care_accel.encoding.encoder import Encoder
from care_accel.encoding.loading.vocabulary import Vocabulary
from care_accel.encoding.spec import EncoderSpec, Role, Task
from care_accel.errors import CareError
from care_accel.serving.backend.tensors import Backend, read_tasks, read_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FOLDER = "tokenizer"  # within a version of the model


class TokenizerModel:
    """What ``model.py`` of ``query_tokenizer`` and ``document_tokenizer`` hands to the server.

    Outputs are those of `Encoder.tokenize` and `Encoder.pad`: ``input_ids`` and ``attention_mask``, INT64 ``[n, length]``,
    and ``TOKENS``, INT32 ``[n, 1]``, the tokens of each text.

    The server joins requests for the network only where their shapes are equal and they follow one another, so lengths
    are chosen from a few, and requests that were tokenised together get one length if it is not much longer than what
    each needs.

    Parameters of the configuration, as JSON: ``care`` (what the encoder is), ``lengths``, and ``stretch``, how many times
    as long as it needs to be a request may become.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Load the tokenizer that lies in the model's folder."""
        self.backend = Backend(args)
        parameters = self.backend.parameters
        self._role = cast(Role, parameters["care"]["role"])
        self._lengths: list[int] = parameters["lengths"]
        self._stretch = float(parameters["stretch"])
        place = Path(args["model_repository"]) / args["model_version"] / FOLDER
        self.encoder = load_tokenizing(place, EncoderSpec.from_dict(parameters["care"]["spec"]))

    def finalize(self) -> None:
        """Write the last counts."""
        self.backend.end()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request with its tokens, or with what was wrong with it."""
        answers: list[Any] = [None] * len(requests)
        asked: dict[int, tuple[list[str], list[Task]]] = {}
        for position, request in enumerate(requests):
            try:
                if request.is_cancelled():
                    raise CareError("the client has gone")
                asked[position] = self._read(request)
            except CareError as mistake:
                answers[position] = self.backend.refusal(mistake)
        try:
            rows = iter(self._tokenize([*asked.values()]))
        except Exception as failure:  # whatever it was, each client is told, and the next request is answered
            return [answer or self.backend.failure(failure) for answer in answers]
        tokens = {position: [next(rows) for _ in texts] for position, (texts, _) in asked.items()}
        longest = [max(map(len, one)) for one in tokens.values()]
        lengths = shared_lengths([length_for(self._lengths, n) for n in longest], self._stretch)
        for (position, one), length in zip(tokens.items(), lengths, strict=True):
            answers[position] = self._answer(one, length)
        return answers

    def _read(self, request: Any) -> tuple[list[str], list[Task]]:
        raw = self.backend.array(request, "TEXT")
        assert raw is not None  # the configuration asks for it
        texts = read_texts(raw, empty=self._role == "document")
        return texts, read_tasks(self.backend.array(request, "TASK"), len(texts))

    def _tokenize(self, asked: Sequence[tuple[list[str], list[Task]]]) -> list[list[int]]:
        """Return the token ids of the texts of all requests, one after the other."""
        texts = [text for one, _ in asked for text in one]
        tasks = [task for _, one in asked for task in one]
        rows: list[list[int]] = [[] for _ in texts]
        begun, cut = perf_counter(), self.encoder.counts.truncated
        for task in dict.fromkeys(tasks):
            places = [i for i, one in enumerate(tasks) if one == task]
            found = self.encoder.tokenize([texts[i] for i in places], task)
            for place, ids in zip(places, found, strict=True):
                rows[place] = ids
        self._count(len(texts), perf_counter() - begun, self.encoder.counts.truncated - cut)
        return rows

    def _answer(self, rows: list[list[int]], length: int) -> Any:
        ids, mask = self.encoder.pad(rows, length)
        tokens = np.array([[len(row)] for row in rows], dtype=np.int32)
        return self.backend.answer(input_ids=ids, attention_mask=mask, TOKENS=tokens)

    def _count(self, texts: int, seconds: float, cut: int) -> None:
        count, role = self.backend.count, self._role
        count("texts", "Texts encoded", texts, role=role)
        count("tokenise_seconds", "Seconds spent on turning texts into tokens", seconds, role=role)
        count("truncated_texts", "Texts longer than the encoder takes, cut at their end", cut, role=role)


def length_for(lengths: Sequence[int], tokens: int) -> int:
    """Return the shortest of some lengths, in rising order, that holds so many tokens."""
    return lengths[bisect_left(lengths, tokens)]


def shared_lengths(lengths: Sequence[int], stretch: float) -> list[int]:
    """Return a length for each of some requests, at least its own and equal where that costs little.

    Parameters
    ----------
    lengths : sequence of int
        What each request needs.
    stretch : float
        How many times its own length a request may get.
    """
    shared = list(lengths)
    common = 0
    for place in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if common > stretch * lengths[place] or not common:
            common = lengths[place]
        shared[place] = common
    return shared


def tokenizing(
    spec: EncoderSpec, tokenizer: PreTrainedTokenizerFast, vocabulary: Vocabulary | None = None
) -> Encoder:
    """Return an encoder that can tokenise and pad, and has no network."""
    return Encoder(spec, tokenizer, _NoNetwork(), vocabulary)


def save_tokenizing(encoder: Encoder, place: Path) -> None:
    """Write what `load_tokenizing` reads: the tokenizer, and which tokens the network knows if not all.

    Raises
    ------
    CareError
        The tokenizer does not come back as it was.
    """
    encoder.tokenizer.save_pretrained(place)
    if encoder.vocabulary is not None:
        encoder.vocabulary.save(place)
    back = load_tokenizing(place, encoder.spec).tokenizer
    ours = encoder.tokenizer
    if (ours.backend_tokenizer.to_str(), ours.pad_token_id) != (
        back.backend_tokenizer.to_str(),
        back.pad_token_id,
    ):
        raise CareError(
            f"{ours.name_or_path}: its tokenizer is another once it is saved and loaded; serve it without --engine"
        )


def load_tokenizing(place: Path, spec: EncoderSpec) -> Encoder:
    """Return the encoder that `save_tokenizing` wrote."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, truncation_side="right")
    return tokenizing(spec, tokenizer, Vocabulary.load(place))


class _NoNetwork:
    """Stands where an encoder has its network."""

    device = "cpu"

    def __call__(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        raise RuntimeError("this encoder was loaded to tokenise; it has no network")
