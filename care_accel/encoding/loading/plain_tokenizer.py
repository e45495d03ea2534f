"""Tokenizers without transformers, which takes seconds to import: the same ids for the folders that are known here.

transformers does not always take ``tokenizer.json`` as it is: some of its classes build the parts around the vocabulary
anew. `open_tokenizer` does the same for the classes that it knows, and gives none for other classes, for settings that it
does not know, and for files that contradict one another. Tests compare every part with transformers' own.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    Load = Callable[[], PreTrainedTokenizerFast]

Settings = dict[str, Any]

# Texts of a batch that are tokenised one by one: waking the tokenizer's threads takes 0.1 ms, as long as eight queries.
_FEW = 16

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_LISTED = ("extra_special_tokens", "additional_special_tokens")
# Settings that have no effect on the ids of a text: its maximum length, side and special tokens are given in each call, and
# transformers drops add_bos_token and add_eos_token where there is a tokenizer.json.
_HARMLESS = (
    *("add_bos_token", "add_eos_token", "added_tokens_decoder", "backend", "chat_template"),
    *(
        "clean_up_tokenization_spaces",
        "do_basic_tokenize",
        "is_local",
        "local_files_only",
        "max_len",
        "max_length",
    ),
    *(
        "model_input_names",
        "model_max_length",
        "name_or_path",
        "never_split",
        "pad_to_multiple_of",
        "padding_side",
    ),
    *("pad_token_type_id", "processor_class", "sp_model_kwargs", "special_tokens_map_file", "stride"),
    *("tokenizer_class", "tokenizer_file", "truncation_side", "truncation_strategy"),
)


class PlainTokenizer:
    """The part of transformers' tokenizers that encoders use; anything else is asked of transformers' own, loaded on demand.

    Parameters
    ----------
    backend : tokenizers.Tokenizer
    pad_token : str
        In its vocabulary.
    load : callable
        Returns transformers' tokenizer of the same folder.
    """

    def __init__(self, backend: tokenizers.Tokenizer, pad_token: str, load: Load) -> None:
        backend.no_truncation()
        backend.no_padding()
        self.backend_tokenizer = backend
        self.pad_token = pad_token
        self.pad_token_id = backend.token_to_id(pad_token)
        self._load = load
        self._whole: PreTrainedTokenizerFast | None = None
        self._max_length: int | None = None

    def __call__(
        self, texts: str | Sequence[str], *, max_length: int | None = None, **options: Any
    ) -> Mapping[str, Any]:
        """Return token ids as transformers does, and ``encodings``.

        Parameters
        ----------
        texts : str or sequence of str
        max_length : int, optional
            With ``truncation=True``: longer texts are cut at their end.
        **options
            Others than ``truncation``, ``return_attention_mask`` and ``verbose`` are left to transformers.
        """
        known = {"truncation": True, "return_attention_mask": False, "verbose": False}
        if max_length is None or options != known or isinstance(texts, str):
            return cast(Mapping[str, Any], self.whole(texts, max_length=max_length, **options))
        if max_length != self._max_length:
            self.backend_tokenizer.enable_truncation(max_length)
            self._max_length = max_length
        if len(texts) <= _FEW:
            return Encoded([self.backend_tokenizer.encode(text) for text in texts])
        return Encoded(self.backend_tokenizer.encode_batch(texts))

    def num_special_tokens_to_add(self) -> int:
        """Return the number of special tokens that are added to a text."""
        return self.backend_tokenizer.num_special_tokens_to_add(False)

    def get_vocab(self) -> dict[str, int]:
        """Return the ids of all tokens."""
        return self.backend_tokenizer.get_vocab(with_added_tokens=True)

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def whole(self) -> PreTrainedTokenizerFast:
        """Transformers' tokenizer of the same folder."""
        if self._whole is None:
            self._whole = self._load()
        return self._whole

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_load" not in self.__dict__:
            raise AttributeError(name)  # of copies and pickles in the making
        return getattr(self.whole, name)


class Encoded(dict[str, list[list[int]]]):
    """Token ids of texts as ``input_ids``, and what the tokenizer gave as ``encodings``."""

    def __init__(self, encodings: list[tokenizers.Encoding]) -> None:
        super().__init__(input_ids=[encoding.ids for encoding in encodings])
        self.encodings = encodings


def open_tokenizer(folder: Path, load: Load) -> PlainTokenizer | None:
    """Return the tokenizer of a folder, or None if transformers has to load it.

    Parameters
    ----------
    folder : Path
        Contains ``tokenizer_config.json``.
    load : callable
        Returns transformers' tokenizer of the same folder.
    """
    file = folder / "tokenizer.json"
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        stored = json.loads(file.read_text(encoding="utf-8"))
        opened = _open(folder, file, settings, stored)
    except Exception:  # transformers says what is wrong; tokenizers raises bare Exception
        return None
    return None if opened is None else PlainTokenizer(*opened, load)


def _open(
    folder: Path, file: Path, settings: Settings, stored: Settings
) -> tuple[tokenizers.Tokenizer, str] | None:
    if "added_tokens_decoder" not in settings:
        if (folder / "added_tokens.json").exists():
            return None
        if (named := folder / "special_tokens_map.json").exists():
            settings |= json.loads(named.read_text(encoding="utf-8"))
    name = str(settings.get("tokenizer_class", ""))
    kind = name if name.startswith("PreTrained") else name.removesuffix("Fast")
    if kind not in _CLASSES:
        return None
    defaults, build = _CLASSES[kind]
    settings = defaults | settings
    if set(settings) - {*_HARMLESS, *_NAMED, *_LISTED, *defaults} or settings.get("auto_map"):
        return None
    padding = _content(settings.get("pad_token"))
    if padding is None or not _agrees(settings, stored):
        return None
    from tokenizers import Tokenizer

    backend = Tokenizer.from_file(str(file))
    return (backend, padding) if build(backend, settings, stored) else None


def _agrees(settings: Settings, stored: Settings) -> bool:
    """Return whether the special tokens of both files are the same: transformers adds those that are not."""
    added = {token["content"]: token for token in stored["added_tokens"]}
    if "added_tokens_decoder" in settings:
        listed = [entry | {"id": int(at)} for at, entry in settings["added_tokens_decoder"].items()]
        if sorted(listed, key=_id) != sorted(added.values(), key=_id):
            return False
    return all(name in added and added[name]["special"] for name in _special(settings))


def _id(token: Settings) -> int:
    return int(token["id"])


def _special(settings: Settings) -> Iterator[str]:
    for name in _NAMED:
        if (content := _content(settings.get(name))) is not None:
            yield content
    for name in _LISTED:
        for token in settings.get(name) or []:
            yield _content(token) or ""


def _content(token: str | Settings | None) -> str | None:
    return token["content"] if isinstance(token, dict) else token


def _as_stored(backend: tokenizers.Tokenizer, settings: Settings, stored: Settings) -> bool:
    return True


def _bert(backend: tokenizers.Tokenizer, settings: Settings, stored: Settings) -> bool:
    from tokenizers import decoders, normalizers, pre_tokenizers

    model = stored["model"]
    if model["type"] != "WordPiece" or model["unk_token"] != _content(settings["unk_token"]):
        return False
    if (model["continuing_subword_prefix"], model["max_input_chars_per_word"]) != ("##", 100):
        return False
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings["tokenize_chinese_chars"],
        strip_accents=settings["strip_accents"],
        lowercase=settings["do_lower_case"],
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    first, last = (_content(settings[name]) for name in ("cls_token", "sep_token"))
    _between(backend, f"{first}:0 $A:0 {last}:0", f"{first}:0 $A:0 {last}:0 $B:1 {last}:1", (first, last))
    return _keeps_ids(model["vocab"], stored)


def _xlm_roberta(backend: tokenizers.Tokenizer, settings: Settings, stored: Settings) -> bool:
    from tokenizers import decoders, normalizers, pre_tokenizers

    model = stored["model"]
    if model["type"] != "Unigram" or model["unk_id"] != 3 or model.get("byte_fallback"):
        return False
    rules = stored["normalizer"]
    if rules is not None:
        steps = rules["normalizers"] if rules["type"] == "Sequence" else [rules]
        compiled = [step["precompiled_charsmap"] for step in steps if step["type"] == "Precompiled"]
        if not compiled:
            return False
        backend.normalizer = normalizers.Precompiled(base64.b64decode(compiled[0]))
    scheme = "always" if settings["add_prefix_space"] else "never"
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace("▁", prepend_scheme=scheme)]
    )
    backend.decoder = decoders.Metaspace("▁", prepend_scheme=scheme)
    first, last = (_content(settings[name]) for name in ("bos_token", "eos_token"))
    _between(backend, f"{first} $A {last}", f"{first} $A {last} {last} $B {last}", (first, last))
    return _keeps_ids({token: i for i, (token, _) in enumerate(model["vocab"])}, stored)


def _qwen(backend: tokenizers.Tokenizer, settings: Settings, stored: Settings) -> bool:
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers

    # This class adds its special tokens once more, with these flags.
    special = {*_special(settings)}
    added = [token for token in stored["added_tokens"] if token["content"] in special]
    if any(token[flag] for token in added for flag in ("lstrip", "rstrip", "single_word", "normalized")):
        return False
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=bool(settings["add_prefix_space"]), use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return _merges_bytes(stored)


def _roberta(backend: tokenizers.Tokenizer, settings: Settings, stored: Settings) -> bool:
    from tokenizers import decoders, pre_tokenizers, processors

    if stored["normalizer"] is not None:
        return False
    space = settings["add_prefix_space"]
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    backend.decoder = decoders.ByteLevel()
    first, last = _pairs(backend, [_content(settings[name]) for name in ("cls_token", "sep_token")])
    backend.post_processor = processors.RobertaProcessing(last, first, settings["trim_offsets"], space)
    return _merges_bytes(stored)


def _merges_bytes(stored: Settings) -> bool:
    """Return whether the vocabulary is one of byte pairs with transformers' settings."""
    model = stored["model"]
    unusual = (
        *("continuing_subword_prefix", "end_of_word_suffix", "dropout", "unk_token"),
        *("fuse_unk", "byte_fallback", "ignore_merges"),
    )
    if model["type"] != "BPE" or any(model.get(name) for name in unusual):
        return False
    return _keeps_ids(model["vocab"], stored)


def _between(backend: tokenizers.Tokenizer, single: str, pair: str, special: Sequence[str | None]) -> None:
    from tokenizers import processors

    ids = _pairs(backend, special)
    backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)


def _pairs(backend: tokenizers.Tokenizer, special: Sequence[str | None]) -> list[tuple[str, int]]:
    """Return special tokens with their ids; a token that is not there makes the class fail, here as in transformers."""
    return [(str(token), cast(int, backend.token_to_id(str(token)))) for token in special]


def _keeps_ids(vocabulary: Mapping[str, int], stored: Settings) -> bool:
    """Return whether the added tokens keep their ids when they are added to a vocabulary anew, in order."""
    following = len(vocabulary)
    for token in sorted(stored["added_tokens"], key=_id):
        found = vocabulary.get(token["content"])
        if (following if found is None else found) != token["id"]:
            return False
        following += found is None
    return True


_QWEN_WORDS = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
_BEGIN_AND_END = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "cls_token": "<s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
# The classes of transformers that are known here: their defaults, and what they do with tokenizer.json.
_CLASSES: dict[str, tuple[Settings, Callable[[tokenizers.Tokenizer, Settings, Settings], bool]]] = {
    "TokenizersBackend": ({}, _as_stored),
    "PreTrainedTokenizerFast": ({}, _as_stored),
    "BertTokenizer": (
        {
            "do_lower_case": True,
            "tokenize_chinese_chars": True,
            "strip_accents": None,
            "unk_token": "[UNK]",
            "sep_token": "[SEP]",
            "pad_token": "[PAD]",
            "cls_token": "[CLS]",
            "mask_token": "[MASK]",
        },
        _bert,
    ),
    "XLMRobertaTokenizer": ({"add_prefix_space": True, **_BEGIN_AND_END}, _xlm_roberta),
    "RobertaTokenizer": (
        {"add_prefix_space": False, "trim_offsets": True, "errors": "replace", **_BEGIN_AND_END},
        _roberta,
    ),
    "Qwen2Tokenizer": (
        {
            "add_prefix_space": None,
            "errors": "replace",
            "bos_token": None,
            "eos_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
        },
        _qwen,
    ),
}
