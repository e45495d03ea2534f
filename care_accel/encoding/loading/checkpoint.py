"""Validates and safely loads the folder of a network.

Only safetensors are read, and code from a checkpoint never runs. A configuration that names remote code for an
architecture which transformers has built in (``model_type: "new"``, the original gte) is mapped to the built-in class.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_accel.encoding.loading.adapter import WEIGHTS as ADAPTER
from care_accel.encoding.loading.adapter import merge_adapter
from care_accel.encoding.loading.dense import load_tensors, stored_files, stored_name
from care_accel.encoding.loading.int8_weights import FILE as INT8_WEIGHTS
from care_accel.encoding.loading.int8_weights import load_int8
from care_accel.encoding.loading.notices import notice_once
from care_accel.encoding.loading.plain_config import CAUSAL, gte_values, plain_values
from care_accel.encoding.loading.plain_tokenizer import PlainTokenizer, open_tokenizer
from care_accel.encoding.loading.quiet import quiet_transformers, save_network
from care_accel.encoding.loading.vocabulary import FILE as VOCABULARY
from care_accel.encoding.loading.vocabulary import Vocabulary
from care_accel.encoding.loading.weights import LAYER, Weights, read_weights
from care_accel.encoding.spec import EncoderSpec
from care_accel.errors import CareError
from care_accel.files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

    from care_accel.encoding.dense_layers import DenseLayers

_HASHED = ("*.safetensors", "*.json", "*.txt", "*.model")
# Metadata that does not affect embeddings.
_NOT_HASHED = ("README", "generation_config.json", "trainer_state.json", "care.json")
_CHUNK = 1 << 22
# Networks with absolute positions that count from pad_token_id + 1, as RoBERTa's do.
_OFFSET_POSITIONS = (
    *("camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "markuplm", "mpnet", "roberta"),
    *("roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A folder with a network (or a LoRA adapter) and its tokenizer.

    Parameters
    ----------
    folder : Path
        Contains ``config.json`` and ``*.safetensors``, or ``adapter_config.json`` and the adapter's weights; and the
        tokenizer's files.
    base : Path, optional
        Folder of the base network if ``folder`` contains an adapter.
    dense : tuple of Path, optional
        Weights of dense layers outside the folder, in order (a sentence-transformers folder); by default those in the
        folder's ``dense/``.

    Raises
    ------
    CareError
        At construction: a file is missing or not JSON; the message names it.
    """

    folder: Path
    base: Path | None = None
    dense: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if not self.network_folder.is_dir():
            raise CareError(f"{self.network_folder}: no such folder; give the folder of an encoder")
        self.config_values  # noqa: B018  report a broken config.json before loading anything
        if not list(self.network_folder.glob("*.safetensors")):
            raise CareError(
                f"{self.network_folder}: no *.safetensors file; convert other formats with transformers' "
                "save_pretrained"
            )
        if self.base is not None and not (self.folder / ADAPTER).is_file():
            raise CareError(f"{self.folder}: no {ADAPTER}; save the adapter in this format")
        if not (self.tokenizer_folder / "tokenizer_config.json").is_file():
            raise CareError(f"{self.folder}: no tokenizer_config.json; save the tokenizer in the same folder")

    def __reduce__(self) -> tuple[Any, ...]:
        # By absolute paths, as another process may run elsewhere; without what was cached from the files.
        folders = [None if f is None else f.absolute() for f in (self.folder, self.base)]
        return type(self), (*folders, tuple(f.absolute() for f in self.dense))

    @property
    def network_folder(self) -> Path:
        return self.base or self.folder

    @property
    def stored_int8(self) -> bool:
        """Whether the weights are stored in int8, which other libraries do not read."""
        return (self.network_folder / INT8_WEIGHTS).is_file()

    @property
    def dense_files(self) -> tuple[Path, ...]:
        """Weights of the dense layers, in order."""
        return self.dense or stored_files(self.folder)

    @property
    def tokenizer_folder(self) -> Path:
        # An adapter folder usually has the tokenizer; otherwise the base folder does.
        own = (self.folder / "tokenizer_config.json").is_file()
        return self.folder if own or self.base is None else self.base

    @cached_property
    def config_values(self) -> dict[str, Any]:
        """Contents of ``config.json``."""
        return read_json(self.network_folder / "config.json", "an encoder folder needs it")

    @cached_property
    def config(self) -> PreTrainedConfig:
        """The transformers configuration, with remote-code names mapped to built-in classes."""
        from transformers import CONFIG_MAPPING
        from transformers import __version__ as release

        file = self.network_folder / "config.json"
        values = dict(self.config_values)
        values.pop("auto_map", None)
        try:
            if values.get("model_type") == "new":
                values = gte_values(values)
            model_type = str(values.get("model_type"))
            if model_type in CONFIG_MAPPING:
                return CONFIG_MAPPING[model_type].from_dict(values)
        except Exception as cause:  # several libraries validate configurations
            raise CareError(f"{file}: invalid network configuration: {_one_line(cause)}") from cause
        raise CareError(
            f"{file}: transformers {release} does not support model_type {model_type!r}; install a release that does"
        )

    @cached_property
    def plain_config(self) -> dict[str, Any] | None:
        """The values of `config` as far as they are known without transformers; None if they are not."""
        return plain_values(self.config_values)

    @property
    def settings(self) -> dict[str, Any]:
        """The values of `config`, with transformers only where it is needed."""
        return self.config.to_dict() if self.plain_config is None else self.plain_config

    def _setting(self, name: str) -> Any:
        return getattr(self.config, name, None) if self.plain_config is None else self.plain_config.get(name)

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        size = self.config_values.get("hidden_size")
        if not isinstance(size, int):
            raise CareError(
                f"{self.network_folder / 'config.json'}: hidden_size is {size!r}; it must be an integer"
            )
        return size

    @property
    def causal(self) -> bool:
        """Whether the network uses causal attention (an LLM-based encoder)."""
        if self.plain_config is not None:
            return self.plain_config["model_type"] in CAUSAL
        from transformers.models.auto import modeling_auto

        name = self.config.model_type
        return (
            name in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
            and name not in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
        )

    @property
    def rotary(self) -> bool:
        """Whether positions are relative (RoPE), so that left padding does not change results."""
        return self._setting("rope_parameters") is not None

    @property
    def max_tokens(self) -> int | None:
        """Maximum sequence length of the network; None if its configuration sets no limit."""
        positions = self._setting("max_position_embeddings")
        offset = (
            (self._setting("pad_token_id") or 0) + 1
            if self._setting("model_type") in _OFFSET_POSITIONS
            else 0
        )
        return positions - offset if positions else None

    @cached_property
    def fingerprint(self) -> str:
        """``sha256:`` over every file that affects embeddings: weights, configuration, tokenizer, adapter."""
        total = hashlib.sha256()
        for name, file in self._hashed_files():
            digest = hashlib.sha256()
            with file.open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
            total.update(f"{name} {digest.hexdigest()}\n".encode())
        return f"sha256:{total.hexdigest()}"

    def _hashed_files(self) -> list[tuple[str, Path]]:
        """Return the files that affect embeddings; dense layers under the names that they are stored by."""
        found = []
        for folder in filter(None, (self.folder, self.base)):
            files = {f for pattern in _HASHED for f in folder.glob(pattern)}
            found += [(f.name, f) for f in sorted(files) if not f.name.startswith(_NOT_HASHED)]
        return found + [(stored_name(i), file) for i, file in enumerate(self.dense_files)]

    @property
    def signature(self) -> tuple[tuple[str, int, int], ...]:
        """Name, size and time of change of the files that affect embeddings: a quick test whether any changed."""
        stats = [(name, file.stat()) for name, file in self._hashed_files()]
        return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)

    def load_tokenizer(self) -> PreTrainedTokenizerFast:
        """Load the tokenizer and check that it matches the network.

        Raises
        ------
        CareError
            The tokenizer cannot be read, or has token ids beyond the embedding matrix.
        """
        from transformers import AutoTokenizer

        folder = self.tokenizer_folder
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                folder, config=self.config, trust_remote_code=False, truncation_side="right"
            )
        except Exception as cause:  # transformers raises many types, even bare Exception
            raise CareError(f"{folder}: the tokenizer cannot be read: {_one_line(cause)}") from cause
        if tokenizer.pad_token_id is None:
            # Padding is masked, so any token will do. One that is special already: to make a special token of a word
            # would change how texts are split.
            substitute = tokenizer.eos_token or next(iter(tokenizer.all_special_tokens), None)
            if substitute is not None:
                tokenizer.pad_token = substitute
            notice_once(
                f"{folder}: the tokenizer has no pad token; padding, which is masked, is "
                f"{'token id 0' if substitute is None else repr(str(substitute))}"
            )
        self._require_rows(tokenizer)
        return tokenizer

    def open_tokenizer(self) -> PlainTokenizer | PreTrainedTokenizerFast:
        """Load the tokenizer as `load_tokenizer` does, without transformers if the folder allows it: the ids are the same.

        Raises
        ------
        CareError
            As `load_tokenizer` does.
        """
        plain = None
        if self.plain_config is not None:
            plain = open_tokenizer(self.tokenizer_folder, self.load_tokenizer)
        if plain is None:
            return self.load_tokenizer()
        self._require_rows(plain)
        return plain

    def _require_rows(self, tokenizer: PlainTokenizer | PreTrainedTokenizerFast) -> None:
        """Refuse a tokenizer with ids beyond the embedding matrix."""
        vocabulary = self.load_vocabulary()
        rows = int(self._setting("vocab_size")) if vocabulary is None else len(vocabulary.rows)
        if (highest := max(tokenizer.get_vocab().values())) >= rows:
            raise CareError(
                f"{self.tokenizer_folder}: the tokenizer does not match the network: its highest token id is {highest}, "
                f"the network has {rows} embeddings; use the tokenizer of this network"
            )

    def load_vocabulary(self) -> Vocabulary | None:
        """Return the pruned vocabulary; None if the network has an embedding for every token.

        Raises
        ------
        CareError
            The pruned vocabulary does not match the network, or its file is corrupt.
        """
        vocabulary = Vocabulary.load(self.network_folder)
        if vocabulary is not None and vocabulary.kept != int(self._setting("vocab_size")):
            raise CareError(
                f"{self.network_folder}: the pruned vocabulary has {vocabulary.kept} tokens, the network "
                f"{self._setting('vocab_size')} embeddings; export the model again"
            )
        return vocabulary

    def require_full_vocabulary(self, action: str) -> None:
        """Refuse a network with a pruned vocabulary.

        Raises
        ------
        CareError
            The network was exported with a pruned vocabulary. The message suggests ``action`` on the original model.
        """
        if (self.network_folder / VOCABULARY).is_file():
            raise CareError(
                f"{self.folder}: has a pruned vocabulary; {action} the model it was exported from"
            )

    def read_weights(self) -> Weights | None:
        """Return the weights of `load_network` in float32 without PyTorch; None if only PyTorch can load them.

        Raises
        ------
        CareError
            Weights in int8 are corrupt.
        """
        if self.plain_config is None or self.base is not None:
            return None
        return read_weights(self.network_folder, self.plain_config)

    @quiet_transformers()
    def load_network(self, dtype: str) -> PreTrainedModel:
        """Load the network in evaluation mode on the CPU; merge an adapter into its base.

        Raises
        ------
        CareError
            Weights are corrupt or missing, or an adapter needs peft, which is not installed.
        """
        import torch
        from transformers import MODEL_MAPPING, AutoModel

        options: dict[str, Any] = {"config": self.config, "dtype": getattr(torch, dtype)}
        options["output_loading_info"] = True
        try:
            if self.stored_int8:
                weights = {name: torch.from_numpy(w) for name, w in load_int8(self.network_folder).items()}
                kind = MODEL_MAPPING[type(self.config)]
                network, report = kind.from_pretrained(None, state_dict=weights, **options)
            else:
                network, report = AutoModel.from_pretrained(
                    self.network_folder, trust_remote_code=False, use_safetensors=True, **options
                )
        except Exception as cause:  # safetensors, transformers and torch each raise their own types
            raise CareError(f"{self.network_folder}: weights cannot be loaded: {_one_line(cause)}") from cause
        # Embeddings come from the last hidden states; a missing pooler does not matter.
        if missing := sorted(name for name in report["missing_keys"] if not name.startswith("pooler.")):
            raise CareError(
                f"{self.network_folder}: the files lack {len(missing)} weights of the network, such as "
                f"{missing[0]}; save the complete network again"
            )
        # Extra heads do not matter; an extra layer means that config.json is wrong.
        if unknown := sorted(name for name in report["unexpected_keys"] if LAYER.search(name)):
            log.warning(
                "%s: %d weights such as %s belong to no layer of config.json and are ignored",
                self.network_folder,
                len(unknown),
                unknown[0],
            )
        if self.base is not None:
            network = merge_adapter(network, self.folder)
        return without_pooler(network).eval()

    def save_float32(self, folder: Path) -> None:
        """Write network and tokenizer as other libraries read them: in float32, with an adapter merged."""
        save_network(self.load_network("float32"), folder)
        self.load_tokenizer().save_pretrained(folder)

    def load_dense(self, spec: EncoderSpec) -> DenseLayers | None:
        """Load the dense layers of a spec on the CPU; None if it has none."""
        if not spec.dense:
            return None
        from care_accel.encoding.dense_layers import DenseLayers

        return DenseLayers(spec.dense, [load_tensors(file) for file in self.dense_files]).eval()


def without_pooler(network: PreTrainedModel) -> PreTrainedModel:
    """Remove the pooling layer of BERT-like networks, which encoders of texts do not use, and return the network."""
    if "add_pooling_layer" in inspect.signature(type(network).__init__).parameters:
        network.pooler = None
    return network


def _one_line(cause: BaseException) -> str:
    return " ".join(str(cause).split())[:300] or type(cause).__name__
