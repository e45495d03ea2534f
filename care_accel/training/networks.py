"""Initial model of a recipe: a pretrained one, or new networks with a new tokenizer."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from care_accel.encoding import ROLES, DualEncoder, EncoderSpec
from care_accel.encoding.loading.checkpoint import Checkpoint
from care_accel.encoding.loading.quiet import save_network
from care_accel.encoding.loading.sources import MANIFEST, Source, Sources
from care_accel.errors import CareError
from care_accel.training.data.rows import read_texts
from care_accel.training.pretrained import pretrained_model
from care_accel.training.processes import main_process_first, processes
from care_accel.training.recipe import NewEncoder, Recipe, Stage, Start

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

PAD, UNKNOWN, MASK = "[PAD]", "[UNK]", "[MASK]"
_OUTPUT_PROJECTIONS = ("o_proj.weight", "o_proj.bias", "down_proj.weight", "down_proj.bias")


def initial_model(recipe: Recipe, data_dir: Path, folder: Path) -> DualEncoder:
    """Return the dual encoder that the first stage starts from.

    A new one is written to ``folder``, so that a resumed run has the same tokenizer and initial weights.

    Raises
    ------
    CareError
        A training file of the tokenizer is missing, or a network cannot be built.
    """
    start = recipe.start
    model = pretrained_start(start)
    if model is not None:
        checkpoints = [model.source(role).checkpoint for role in ROLES]
        if not any(checkpoint.base or checkpoint.stored_int8 for checkpoint in checkpoints):
            return model
        if not (folder / MANIFEST).is_file():
            _write_in_float32(model, folder)
    elif start.pretrained is not None:
        if not (folder / MANIFEST).is_file():
            with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
                found = pretrained_model(recipe, data_dir, Path(temporary))
                found.save_pretrained(folder, name=recipe.name)
    elif not (folder / MANIFEST).is_file():
        assert start.tokenizer is not None  # the recipe's check
        files = [data_dir / name for name in start.tokenizer.files]
        texts = (text for file in files for text in read_texts(file))
        tokenizer = train_tokenizer(texts, start.tokenizer.vocab_size, start.tokenizer.alphabet)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            _write_new(start, tokenizer, recipe, Path(temporary)).save_pretrained(folder, name=recipe.name)
    return DualEncoder.from_pretrained(folder)


def _write_in_float32(model: DualEncoder, folder: Path) -> None:
    """Write a model as sentence-transformers reads it: with LoRA merged into its base, and no int8 weights."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        sources = {}
        for role in ROLES:
            checkpoint = model.source(role).checkpoint
            place = Path(temporary) / ("both" if model.symmetric else role)
            if not place.is_dir():
                checkpoint.save_float32(place)
            sources[role] = Source(Checkpoint(place), model.spec(role))
        DualEncoder(Sources(model.name, sources["query"], sources["document"])).save_pretrained(folder)


def pretrained_start(start: Start) -> DualEncoder | None:
    """Return the dual encoder that a recipe names; None where it is to be made."""
    if start.model is None and start.query_model is None:
        return None
    return DualEncoder.from_pretrained(
        start.model, query=start.query_model, document=start.document_model, preset=start.preset
    )


def train_tokenizer(texts: Iterable[str], vocab_size: int, alphabet: int) -> PreTrainedTokenizerFast:
    """Train a character-level BPE tokenizer.

    Text is normalised by NFKC and lower-cased; merges never cross punctuation, digits or white space.

    Parameters
    ----------
    texts : iterable of str
    vocab_size : int
    alphabet : int
        Number of characters kept, the most frequent ones.

    Returns
    -------
    transformers.PreTrainedTokenizerFast
        With pad, unknown and mask tokens, and no special tokens around a text.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    texts = list(texts)
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s+"), "removed"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(Regex(r"[^\p{L}\p{N}]"), "isolated"),
        ]
    )
    # Selected here for determinism: the library breaks ties among rare characters differently in every process.
    counts = Counter(c for text in texts for c in tokenizer.normalizer.normalize_str(text) if not c.isspace())
    kept = sorted(counts, key=lambda c: (-counts[c], c))[:alphabet]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=kept,
        limit_alphabet=len(kept),
        min_frequency=2,
        special_tokens=[PAD, UNKNOWN, MASK],
        max_token_length=4,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, mask_token=MASK
    )


def new_network(encoder: NewEncoder, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Build a randomly initialised network with the vocabulary of the tokenizer.

    Raises
    ------
    CareError
        The fields are not a valid configuration of the ``model_type``.
    """
    from transformers import CONFIG_MAPPING, AutoModel

    values = dict(encoder.network)
    model_type = values.pop("model_type", None)
    if model_type not in CONFIG_MAPPING:
        raise CareError(f"network: model_type {model_type!r} is unknown; the paper uses gte and qwen3")
    known = CONFIG_MAPPING[model_type]()
    if unknown := [name for name in values if not hasattr(known, name)]:
        raise CareError(
            f"network {model_type}: unknown field {unknown[0]!r}, which transformers would silently ignore; remove it"
        )
    try:
        config = CONFIG_MAPPING[model_type](
            **values, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id
        )
        network = AutoModel.from_config(config)
        network.get_input_embeddings()  # fails for models without token embeddings
        return network
    except Exception as cause:  # configurations are validated by several libraries
        raise CareError(
            f"network {model_type}: cannot be built: {' '.join(str(cause).split())[:300]}"
        ) from None


def _write_new(start: Start, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, folder: Path) -> DualEncoder:
    import torch

    torch.manual_seed(recipe.seed)
    assert start.query is not None  # the recipe's check
    assert start.document is not None
    encoders = {"query": start.query, "document": start.document}
    networks = {role: new_network(encoders[role], tokenizer) for role in ROLES}
    if start.bag_of_words:
        _init_as_bag_of_words(networks["query"], networks["document"])
    specs: dict[str, EncoderSpec] = {}
    for role in ROLES:
        encoder, network = encoders[role], networks[role]
        save_network(network, folder / role)
        tokenizer.save_pretrained(folder / role)
        causal = Checkpoint(folder / role).causal
        specs[role] = EncoderSpec(
            pooling=encoder.pooling,
            order=start.order,
            width=start.width or network.config.hidden_size,
            max_tokens=start.max_tokens,
            padding_side="left" if causal else "right",
        )
    found = {role: Source(Checkpoint(folder / role), specs[role]) for role in ROLES}
    return DualEncoder(Sources(recipe.name, found["query"], found["document"]))


def _init_as_bag_of_words(query: PreTrainedModel, document: PreTrainedModel) -> None:
    """Give both networks the same token embeddings, and layers that are the identity.

    With zero output projections a residual layer adds nothing, so hidden states are the normalised token
    embeddings, and gradients still reach the projections.
    """
    import torch

    theirs, ours = query.get_input_embeddings().weight, document.get_input_embeddings().weight
    common = min(theirs.shape[1], ours.shape[1])
    with torch.no_grad():
        ours[:, :common] = theirs[:, :common]
        for network in (query, document):
            for name, weights in network.named_parameters():
                if name.endswith(_OUTPUT_PROJECTIONS):
                    weights.zero_()


def with_layers(model: DualEncoder, stage: Stage, folder: Path) -> DualEncoder:
    """Make the encoder of a stage's role anew from layers of the document encoder, and write it to a folder.

    Raises
    ------
    CareError
        The document encoder does not have one of ``stage.layers``, or its layers are not a plain list.
    """
    with main_process_first():
        if processes().is_main_process and not (folder / "tokenizer_config.json").is_file():
            document = model.source("document").checkpoint
            network = document.load_network("float32")
            _keep_layers(network, stage)
            save_network(network, folder)
            document.load_tokenizer().save_pretrained(folder)  # last: it marks a whole folder
    specs = model.spec(stage.role), model.spec("document")
    # Pooling and padding belong to the network, prompts to the role.
    spec = replace(specs[0], pooling=specs[1].pooling, padding_side=specs[1].padding_side)
    sources = {role: model.source(role) for role in ROLES} | {stage.role: Source(Checkpoint(folder), spec)}
    return DualEncoder(Sources(model.name, sources["query"], sources["document"]))


def _keep_layers(network: PreTrainedModel, stage: Stage) -> None:
    config = network.config
    layers = layer_list(network)
    if wrong := [layer for layer in stage.layers if not 0 <= layer < len(layers)]:
        raise CareError(
            f"stage {stage.name!r}: layers has {wrong[0]}, but the document encoder's are 0 to {len(layers) - 1}"
        )
    kept = [layers[i] for i in stage.layers]
    del layers[:]
    layers.extend(kept)
    config.num_hidden_layers = len(kept)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[i] for i in stage.layers]


def layer_list(network: PreTrainedModel) -> torch.nn.ModuleList:
    """Return the list of a network's layers.

    Raises
    ------
    CareError
        They are not in one list.
    """
    import torch

    count = network.config.num_hidden_layers
    found = [m for m in network.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count]
    if len(found) != 1:
        raise CareError(f"the layers of a {network.config.model_type} network are not in one list")
    return found[0]
