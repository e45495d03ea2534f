"""Prunes a network's vocabulary to the tokens of a corpus (``--keep-vocab``)."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from care_accel.encoding import EncoderSpec
from care_accel.encoding.loading.checkpoint import Checkpoint
from care_accel.encoding.loading.quiet import save_network
from care_accel.encoding.loading.vocabulary import Vocabulary
from care_accel.encoding.runtimes.artefact import RUNTIMES
from care_accel.encoding.spec import PLAIN, TASKS
from care_accel.files import replace_lone_surrogates

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_CHUNK = 4096
_CONFIG_IDS = ("pad_token_id", "bos_token_id", "eos_token_id")


def prune_vocabulary(folder: Path, specs: Iterable[EncoderSpec], texts: Sequence[str]) -> Vocabulary:
    """Prune an encoder's vocabulary to the tokens of some texts, with every prompt of its specs.

    The tokenizer's files do not change. Pruned tokens are encoded as its unknown token, or as its pad token if it has
    none.

    Parameters
    ----------
    folder : Path
        Weights and configuration are rewritten in place.
    specs : iterable of EncoderSpec
        Specs of the roles that the folder serves.
    texts : sequence of str

    Returns
    -------
    Vocabulary

    Raises
    ------
    CareError
        The vocabulary is already pruned.
    """
    import torch

    checkpoint = Checkpoint(folder)
    checkpoint.require_full_vocabulary("use --keep-vocab with")
    tokenizer = checkpoint.load_tokenizer()
    network = checkpoint.load_network(_stored_dtype(checkpoint))
    prompts = {spec.prompt(task) for spec in specs for task in TASKS}
    kept = _tokens(tokenizer, texts, prompts) | set(tokenizer.all_special_ids)
    ids = {name: getattr(network.config, name, None) for name in _CONFIG_IDS}
    pad = tokenizer.pad_token_id or 0  # `Encoder` uses token 0 without one
    kept |= {value for value in ids.values() if isinstance(value, int)} | {pad}
    # RoBERTa-like networks number positions from the padding id + 1: it keeps its row.
    if "roberta" in network.config.model_type:
        kept |= set(range(network.config.pad_token_id))
    unknown = pad if tokenizer.unk_token_id is None else tokenizer.unk_token_id
    embeddings = network.get_input_embeddings()
    vocabulary = Vocabulary.from_token_ids(sorted(kept), len(embeddings.weight), unknown)
    rows = embeddings.weight.detach()[torch.from_numpy(vocabulary.ids)]
    padding = None if embeddings.padding_idx is None else int(vocabulary.rows[embeddings.padding_idx])
    network.set_input_embeddings(torch.nn.Embedding.from_pretrained(rows, padding_idx=padding))
    network.config.vocab_size = vocabulary.kept
    for name, value in ids.items():
        if isinstance(value, int):
            setattr(network.config, name, int(vocabulary.rows[value]))
    shutil.rmtree(folder / RUNTIMES, ignore_errors=True)  # exports of the full vocabulary
    for file in (*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")):
        file.unlink()
    save_network(network, folder)
    vocabulary.save(folder)
    for file in folder.glob("*.safetensors"):  # safetensors creates them with mode 0600
        file.chmod((folder / "config.json").stat().st_mode)
    return vocabulary


def _tokens(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], prompts: Iterable[str]) -> set[int]:
    tokens: set[int] = set()
    for prompt in prompts:
        for start in range(0, len(texts), _CHUNK):
            # Tokenise text and prompt together: a token may span the boundary.
            formatted = [
                prompt.replace(PLAIN, replace_lone_surrogates(text)[0])
                for text in texts[start : start + _CHUNK]
            ]
            for ids in tokenizer(formatted, return_attention_mask=False, verbose=False)["input_ids"]:
                tokens.update(ids)
    return tokens


def _stored_dtype(checkpoint: Checkpoint) -> str:
    values = checkpoint.config_values
    return str(values.get("dtype") or values.get("torch_dtype") or "float32")
