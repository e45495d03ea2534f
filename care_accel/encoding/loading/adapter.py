"""Merges an adapter of peft (LoRA, DoRA and others with a merge) into the network that it was trained on.

An adapter names its weights and its target modules by their paths in the model that it was trained on: for a bare encoder
``layers.0...``, for a model with a head (``task_type="CAUSAL_LM"``) ``model.layers.0...``. An encoder has no head, so the
network is put into an empty module under that name: weights, patterns of ranks and regular expressions of targets then
mean the same as in training. What belongs to the head is not used.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_accel.errors import CareError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_ROOT = "base_model.model."


def merge_adapter(network: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Return the network with an adapter merged into its weights.

    Parameters
    ----------
    network : transformers.PreTrainedModel
        The base, without a head; it is changed.
    folder : Path
        Contains ``adapter_config.json`` and ``adapter_model.safetensors``.

    Raises
    ------
    CareError
        peft is not installed, or the adapter does not belong to this network or cannot be merged; one line.
    """
    try:
        import peft
    except ImportError:
        raise CareError(f"{folder} is a LoRA adapter: pip install 'care-accel[train]'") from None
    try:
        saved = _saved_names(folder / WEIGHTS)
        config = peft.PeftConfig.from_pretrained(str(folder))
        if config.is_prompt_learning:
            raise CareError(
                f"{config.peft_type.value} adds tokens to every input, which cannot be merged; use LoRA"
            )
        within, prefix = _as_trained(network, saved)
        # Names for peft's classes of tasks, which expect the methods of a model with a head.
        config.task_type = None
        _drop_heads(config, within)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # all that matters is checked here
            adapted = peft.PeftModel(within, config)
            _require_modules(adapted, saved)
            report = adapted.load_adapter(str(folder), "default")
            _require_weights(report, saved, f"{_ROOT}{prefix}")
            merged = adapted.merge_and_unload(safe_merge=True)
    except CareError as problem:
        raise CareError(f"{folder}: the adapter cannot be used: {problem}") from None
    except Exception as cause:  # peft, torch and safetensors each raise their own types
        reason = " ".join(str(cause).split())[:300] or type(cause).__name__
        raise CareError(f"{folder}: the adapter does not match: {reason}") from cause
    return getattr(merged, prefix.removesuffix(".")) if prefix else merged


def _saved_names(file: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(file, framework="np") as tensors:
        return sorted(tensors.keys())


def _as_trained(network: PreTrainedModel, saved: list[str]) -> tuple[nn.Module, str]:
    """Return the network as a part of the model that the adapter was trained on, and its prefix in the names."""
    from torch import nn

    name = network.base_model_prefix
    prefixed = name and any(key.startswith(f"{_ROOT}{name}.") for key in saved)
    if not prefixed or hasattr(network, name):
        return network, ""
    outer = nn.Module()
    outer.config = network.config  # peft reads it
    setattr(outer, name, network)
    return outer, f"{name}."


def _drop_heads(config: Any, within: nn.Module) -> None:
    """Remove modules that are trained in full, but that an encoder does not have: its heads."""
    wanted = getattr(config, "modules_to_save", None)
    if wanted:
        names = [name for name, _ in within.named_modules()]
        config.modules_to_save = [
            module for module in wanted if any(f".{name}".endswith(f".{module}") for name in names)
        ] or None


def _require_modules(adapted: Any, saved: list[str]) -> None:
    """Refuse an adapter that lacks a module which was trained in full: peft would keep the base's, or fail."""
    from peft import get_peft_model_state_dict

    own = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    _refuse_missing({name for name in own if adapted.base_model.prefix not in name} - set(saved))


def _refuse_missing(missing: Collection[str]) -> None:
    if missing:
        raise CareError(f"it lacks {len(missing)} weights, such as {min(missing)}; save it again")


def _require_weights(report: Any, saved: list[str], root: str) -> None:
    """Refuse an adapter of which weights are missing, or belong to no module of the network.

    peft only warns of missing weights and leaves random ones in place. Weights outside ``root`` are those of heads.
    """
    _refuse_missing(report.missing_keys)
    unknown = [name for name in report.unexpected_keys if name.startswith(root)]
    if unknown:
        raise CareError(
            f"{len(unknown)} of its weights, such as {unknown[0]}, belong to no module of the base; name the base that "
            "it was trained on with base=..."
        )
    if not any(name.startswith(root) for name in saved):
        raise CareError("none of its weights belongs to the encoder; use the adapter of this network")
