"""Converts a dual encoder to a sentence-transformers model for training, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from sentence_transformers.base.modules import Module

from care_accel.encoding import ROLES, DualEncoder, Role
from care_accel.encoding.loading.checkpoint import Checkpoint, without_pooler
from care_accel.encoding.loading.quiet import quiet_transformers, save_network
from care_accel.encoding.loading.sources import Source, Sources
from care_accel.errors import CareError
from care_accel.training.networks import layer_list
from care_accel.training.processes import main_process_first, processes
from care_accel.training.recipe import Lora, Stage

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_LIBRARY_POOLINGS = {"first": "cls", "last": "lasttoken", "mean": "mean"}


class Slice(Module):
    """Slices vectors to their leading dimensions, in training as in inference.

    The library's ``truncate_dim`` has no effect in training.

    Parameters
    ----------
    width : int
    """

    config_keys: ClassVar[list[str]] = ["width"]

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, features: dict[str, torch.Tensor], **_: Any) -> dict[str, torch.Tensor]:
        """Slice ``sentence_embedding``, ``[batch, hidden]`` to ``[batch, width]``."""
        features["sentence_embedding"] = features["sentence_embedding"][:, : self.width]
        return features

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Save the width, as checkpoints are complete sentence-transformers models."""
        self.save_config(output_path)


def build_library_model(
    model: DualEncoder, stage: Stage, roles: Sequence[Role] = ROLES
) -> SentenceTransformer:
    """Build a trainable sentence-transformers model with the modules of the specs.

    Parameters
    ----------
    model : DualEncoder
    stage : Stage
        For truncation, and LoRA and frozen layers on the document encoder, or on the only one.
    roles : sequence of {"query", "document"}
        Both for a Router; a single one encodes queries and documents.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router

    routes = {role: _route(model, stage, role, layers=role == roles[-1]) for role in roles}
    if stage.lora is not None:
        _add_lora(routes[roles[-1]][0], stage.lora)
    modules = (
        [Router.for_query_document(routes["query"], routes["document"])]
        if len(routes) > 1
        else routes[roles[0]]
    )
    return SentenceTransformer(modules=modules, similarity_fn_name="dot")


def _route(model: DualEncoder, stage: Stage, role: Role, *, layers: bool) -> list[Any]:
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    spec, checkpoint = model.spec(role), model.source(role).checkpoint
    checkpoint.require_full_vocabulary("train")
    if spec.dense or not spec.include_prompt:
        what = "dense layers after pooling" if spec.dense else "include_prompt=False"
        raise CareError(
            f"{checkpoint.folder}: {what} cannot be trained here; train a model without, or use sentence-transformers"
        )
    # Trained weights are float32, whatever the stored precision; autocast does the rest.
    options: dict[str, Any] = {"dtype": torch.float32}
    if not torch.cuda.is_available():
        # On a CPU in bfloat16, eager attention trains faster than the fused one (0.9 against 1.2 s per step).
        options["attn_implementation"] = "eager"
    limit = stage.max_query_tokens if role == "query" else stage.max_document_tokens
    with quiet_transformers():  # which reports a missing pooling layer
        transformer = Transformer(
            str(checkpoint.folder), max_seq_length=min(spec.max_tokens, limit), model_kwargs=options
        )
    without_pooler(transformer.model)
    transformer.tokenizer.padding_side = spec.padding_side
    _freeze(transformer.model, stage, layers=layers)
    if transformer.tokenizer.pad_token is None:
        transformer.tokenizer.pad_token = checkpoint.load_tokenizer().pad_token
    pooling = Pooling(checkpoint.hidden_size, pooling_mode=_LIBRARY_POOLINGS[spec.pooling])
    cut: list[Any] = [Normalize(), Slice(spec.width)]
    if spec.order == "slice-then-normalize":
        cut.reverse()
    return [transformer, pooling, *cut]


def _freeze(network: Any, stage: Stage, *, layers: bool) -> None:
    """Freeze the first layers, and the module of the token embeddings with what else it embeds, such as positions."""
    frozen: list[Any] = list(layer_list(network)[: stage.frozen_layers]) if layers else []
    if not stage.train_embeddings:
        tokens = network.get_input_embeddings()
        frozen += [module for module in network.children() if tokens in module.modules()] or [tokens]
    for module in frozen:
        for parameter in module.parameters():
            parameter.requires_grad_(False)


def _add_lora(transformer: Any, lora: Lora) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules="all-linear")
    transformer.model = get_peft_model(transformer.model, config)


def save_trained(
    library_model: SentenceTransformer,
    model: DualEncoder,
    stage: Stage,
    work: Path,
    roles: Sequence[Role] = ROLES,
) -> DualEncoder:
    """Save the trained networks below ``work`` and return their dual encoder.

    An untrained encoder is referenced where it is; LoRA is merged into its base. By ``stage.start_weight`` the trained
    weights are averaged with those of ``model``, from which the stage began.
    """
    found = {role: model.source(role) for role in ROLES}
    with main_process_first():
        for role in roles:
            if processes().is_main_process:
                _write(library_model, model, stage, role, work / role, alone=len(roles) == 1)
            found[role] = Source(Checkpoint(work / role), model.spec(role))
    return DualEncoder(Sources(model.name, found["query"], found["document"]))


def _write(
    library_model: SentenceTransformer,
    model: DualEncoder,
    stage: Stage,
    role: Role,
    folder: Path,
    *,
    alone: bool,
) -> None:
    transformer = library_model[0] if alone else library_model[0].sub_modules[role][0]
    network = transformer.model
    if hasattr(network, "merge_and_unload"):
        network = network.merge_and_unload()
    checkpoint = model.source(role).checkpoint
    if stage.start_weight:
        # From the files, which a resumed run finds unchanged, and after the merge: an average of LoRA's factors is not
        # that of their products.
        _move_back(network, checkpoint.load_network("float32"), stage.start_weight)
    save_network(network, folder)
    # The original tokenizer, without the truncation limit of training.
    checkpoint.load_tokenizer().save_pretrained(folder)


def _move_back(network: torch.nn.Module, before: torch.nn.Module, share: float) -> None:
    """Replace every weight of a network by ``(1 - share)`` times itself and ``share`` times that of another one."""
    others = dict(before.named_parameters())
    with torch.no_grad():
        for name, weights in network.named_parameters():
            weights.lerp_(others[name].to(weights.device), share)
