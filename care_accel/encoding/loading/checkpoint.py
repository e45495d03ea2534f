"""A network's folder: what is in it, whether it is whole, and how it is loaded safely.

Safetensors only, and never code from a checkpoint: a configuration that names remote code for an
architecture which transformers has (``model_type: "new"``, the original gte) is mapped to the built-in
class.
"""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_accel.encoding.loading.quiet import quiet_transformers
from care_accel.encoding.loading.vocabulary import FILE as VOCABULARY
from care_accel.encoding.loading.vocabulary import Vocabulary
from care_accel.errors import CareError
from care_accel.files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

_HASHED = ("*.safetensors", "*.json", "*.txt", "*.model")
# Metadata beside the weights that does not change a vector.
_NOT_HASHED = ("README", "generation_config.json", "trainer_state.json", "care.json")
_CHUNK = 1 << 22
_LAYER = re.compile(r"layers?\.\d+\..*weight$")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """One folder with a network (or a LoRA adapter that names its base) and its tokenizer.

    Parameters
    ----------
    folder : Path
        Holds ``config.json`` and ``*.safetensors``, or ``adapter_config.json`` and the adapter's
        weights; and the tokenizer's files.
    base : Path, optional
        Folder of the base network when ``folder`` holds an adapter.

    Raises
    ------
    CareError
        At construction: a file is missing or not JSON; the message names it.
    """

    folder: Path
    base: Path | None = None

    def __post_init__(self) -> None:
        if not self.network_folder.is_dir():
            raise CareError(f"{self.network_folder}: no such folder; an encoder needs one")
        self.config_values  # noqa: B018  a broken configuration is reported before anything is loaded
        if not list(self.network_folder.glob("*.safetensors")):
            raise CareError(
                f"{self.network_folder}: no *.safetensors file; only this format is read, "
                "convert others with transformers' save_pretrained"
            )
        if self.base is not None and not (self.folder / "adapter_model.safetensors").is_file():
            raise CareError(f"{self.folder}: no adapter_model.safetensors; save the adapter in this format")
        if not (self._tokenizer_folder / "tokenizer_config.json").is_file():
            raise CareError(f"{self.folder}: no tokenizer_config.json; save the tokenizer beside the network")

    @property
    def network_folder(self) -> Path:
        return self.base or self.folder

    @property
    def _tokenizer_folder(self) -> Path:
        # An adapter usually brings its tokenizer along; otherwise the base has it.
        own = (self.folder / "tokenizer_config.json").is_file()
        return self.folder if own or self.base is None else self.base

    @cached_property
    def config_values(self) -> dict[str, Any]:
        """``config.json`` as it stands."""
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
                values = _gte_values(values)
            model_type = str(values.get("model_type"))
            if model_type in CONFIG_MAPPING:
                return CONFIG_MAPPING[model_type].from_dict(values)
        except Exception as cause:  # configurations are validated by several libraries
            raise CareError(f"{file}: no configuration of a network: {_one_line(cause)}") from cause
        raise CareError(
            f"{file}: transformers {release} has no network {model_type!r}; install a release that has it"
        )

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        size = self.config_values.get("hidden_size")
        if not isinstance(size, int):
            raise CareError(
                f"{self.network_folder / 'config.json'}: hidden_size is {size!r}; it must be a whole number"
            )
        return size

    @property
    def causal(self) -> bool:
        """Whether a token sees only those before it (an LLM-based encoder)."""
        from transformers.models.auto import modeling_auto

        name = self.config.model_type
        return (
            name in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
            and name not in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
        )

    @property
    def rotary(self) -> bool:
        """Whether positions are relative (rotary), so that padding on the left moves nothing."""
        return getattr(self.config, "rope_parameters", None) is not None

    @property
    def max_tokens(self) -> int | None:
        """Tokens that the network has positions for; None if its configuration sets no limit."""
        positions = getattr(self.config, "max_position_embeddings", None)
        # RoBERTa and its kin count positions from behind the pad token's.
        offset = self.config.pad_token_id + 1 if "roberta" in self.config.model_type else 0
        return positions - offset if positions else None

    @cached_property
    def fingerprint(self) -> str:
        """``sha256:`` over every file that decides a vector: weights, configuration, tokenizer, adapter."""
        total = hashlib.sha256()
        for folder in filter(None, (self.folder, self.base)):
            files = {f for pattern in _HASHED for f in folder.glob(pattern)}
            for file in sorted(files):
                if file.name.startswith(_NOT_HASHED):
                    continue
                digest = hashlib.sha256()
                with file.open("rb") as stream:
                    while chunk := stream.read(_CHUNK):
                        digest.update(chunk)
                total.update(f"{file.name} {digest.hexdigest()}\n".encode())
        return f"sha256:{total.hexdigest()}"

    def load_tokenizer(self) -> PreTrainedTokenizerFast:
        """Load the tokenizer and check that it fits the network.

        Raises
        ------
        CareError
            It cannot be read, has no token to pad with, or makes ids that the network does not have.
        """
        from transformers import AutoTokenizer

        folder = self._tokenizer_folder
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                folder, config=self.config, trust_remote_code=False, truncation_side="right"
            )
        except Exception as cause:  # the library raises many kinds, down to bare Exception
            raise CareError(f"{folder}: the tokenizer cannot be read: {_one_line(cause)}") from cause
        if tokenizer.pad_token_id is None:
            if tokenizer.eos_token_id is None:
                raise CareError(
                    f"{folder}: the tokenizer has no pad token; name one in tokenizer_config.json"
                )
            tokenizer.pad_token = tokenizer.eos_token
        vocabulary = self.load_vocabulary()
        rows = int(self.config.vocab_size) if vocabulary is None else len(vocabulary.rows)
        if (highest := max(tokenizer.get_vocab().values())) >= rows:
            raise CareError(
                f"{folder}: the tokenizer does not fit the network: its highest token id is {highest}, "
                f"the network has {rows} embeddings"
            )
        return tokenizer

    def load_vocabulary(self) -> Vocabulary | None:
        """Return which tokens the network has embeddings of; None if it has them of all.

        Raises
        ------
        CareError
            What is kept does not fit the network, or its file is damaged.
        """
        vocabulary = Vocabulary.load(self.network_folder)
        if vocabulary is not None and vocabulary.kept != int(self.config.vocab_size):
            raise CareError(
                f"{self.network_folder}: the kept vocabulary has {vocabulary.kept} tokens, the network "
                f"{self.config.vocab_size} embeddings; export the model anew"
            )
        return vocabulary

    def require_whole_vocabulary(self, why: str) -> None:
        """Refuse a network whose tokenizer's ids are not its rows.

        Raises
        ------
        CareError
            It was exported with a kept vocabulary.
        """
        if (self.network_folder / VOCABULARY).is_file():
            raise CareError(
                f"{self.folder}: has the embeddings of some tokens only; {why} the model it was exported from"
            )

    @quiet_transformers()
    def load_network(self, dtype: str) -> PreTrainedModel:
        """Load the network in evaluation mode on the CPU; an adapter is merged into its base.

        Raises
        ------
        CareError
            Weights are damaged or missing, or an adapter is there and peft is not.
        """
        import torch
        from transformers import AutoModel

        try:
            network, report = AutoModel.from_pretrained(
                self.network_folder,
                config=self.config,
                dtype=getattr(torch, dtype),
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
        except Exception as cause:  # safetensors, transformers and torch each raise their own
            raise CareError(f"{self.network_folder}: weights cannot be loaded: {_one_line(cause)}") from cause
        # A pooler is no part of an encoder here: vectors come from the last hidden states.
        if absent := sorted(name for name in report["missing_keys"] if not name.startswith("pooler.")):
            raise CareError(
                f"{self.network_folder}: {len(absent)} weights of the network are not in its files, "
                f"such as {absent[0]}"
            )
        # Heads are no part of an encoder; a layer that the configuration does not know is a mistake in it.
        if unknown := sorted(name for name in report["unexpected_keys"] if _LAYER.search(name)):
            log.warning(
                "%s: %d weights such as %s belong to no layer of config.json and are not used",
                self.network_folder,
                len(unknown),
                unknown[0],
            )
        if self.base is not None:
            network = self._merge_adapter(network)
        return network.eval()

    def _merge_adapter(self, network: PreTrainedModel) -> PreTrainedModel:
        try:
            from peft import PeftModel
        except ImportError:
            raise CareError(f"{self.folder} is a LoRA adapter: pip install 'care-accel[train]'") from None
        try:
            with warnings.catch_warnings():
                # peft only warns of weights that are missing, and leaves random ones in their place.
                warnings.filterwarnings("error", message="Found missing adapter keys")
                return PeftModel.from_pretrained(network, self.folder).merge_and_unload()
        except Exception as cause:
            raise CareError(f"{self.folder}: the adapter does not fit: {_one_line(cause)}") from cause


def _gte_values(values: dict[str, Any]) -> dict[str, Any]:
    """Translate the configuration of an original gte checkpoint (``model_type: "new"``).

    Those networks scale RoPE statically by NTK: base times the factor, and every frequency divided by
    factor^(2 / head dimension). In transformers' words that is a ``linear`` entry.
    """
    values = {k: v for k, v in values.items() if k not in ("rope_theta", "rope_scaling", "architectures")} | {
        "model_type": "gte",
        "rope_parameters": _rope_parameters(values),
    }
    return values


def _rope_parameters(values: dict[str, Any]) -> dict[str, Any]:
    if "rope_parameters" in values:
        return values["rope_parameters"]
    theta = float(values.get("rope_theta", 10_000.0))
    scaling = values.get("rope_scaling")
    if not scaling:
        return {"rope_type": "default", "rope_theta": theta}
    kind = scaling.get("type", scaling.get("rope_type"))
    if kind != "ntk":
        raise CareError(f"rope_scaling of type {kind!r} is unknown for a gte network; ntk is")
    factor = float(scaling["factor"])
    head = int(values["hidden_size"]) // int(values["num_attention_heads"])
    return {"rope_type": "linear", "rope_theta": theta * factor, "factor": factor ** (2 / head)}


def _one_line(cause: BaseException) -> str:
    return " ".join(str(cause).split())[:300] or type(cause).__name__
