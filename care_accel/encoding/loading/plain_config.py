"""Configurations of the networks that the native engine knows, without transformers, which takes seconds to import.

`plain_values` gives the values of transformers' configuration class: those of ``config.json``, and the class's defaults. It
gives none where it is not sure to agree with that class; transformers then reads the file, or says what is wrong with it.
Tests compare both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from care_accel.errors import CareError

Config = dict[str, Any]

_ENCODER: Config = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "use_cache": True,
    "classifier_dropout": None,
    "is_decoder": False,
    "add_cross_attention": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "tie_word_embeddings": True,
}
_ROBERTA = _ENCODER | {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
# Defaults of transformers' classes, by model_type.
DEFAULTS: dict[str, Config] = {
    "bert": _ENCODER,
    "roberta": _ROBERTA | {"vocab_size": 50265},
    "xlm-roberta": _ROBERTA,
    "gte": {
        "vocab_size": 250048,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": 8192,
        "type_vocab_size": 1,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 1,
        "classifier_dropout": None,
        "bos_token_id": None,
        "eos_token_id": None,
        "tie_word_embeddings": True,
        "rope_parameters": None,
    },
    "qwen3": {
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-6,
        "use_cache": True,
        "tie_word_embeddings": False,
        "rope_parameters": None,
        "attention_bias": False,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
        "layer_types": None,
        "attention_dropout": 0.0,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    },
}
CAUSAL = ("qwen3",)
_ROPE_THETA = {"gte": 160_000.0, "qwen3": 10_000.0}
# Values that change how transformers reads the rest, or the weights.
_UNKNOWN_HERE = (
    *("per_layer_config", "quantization_config", "transformers_weights", "partial_rotary_factor"),
    *("problem_type", "pruned_heads"),
)
_OPTIONAL = (
    *("pad_token_id", "bos_token_id", "eos_token_id", "classifier_dropout", "rope_parameters"),
    *("num_key_value_heads", "sliding_window", "layer_types"),
)
_SIZES = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("max_position_embeddings", "head_dim"),
)


def plain_values(stored: Mapping[str, Any]) -> Config | None:
    """Return the values of a network's configuration with all defaults, or None if transformers has to read it.

    Parameters
    ----------
    stored : mapping
        Contents of ``config.json``.
    """
    values = {name: value for name, value in stored.items() if name != "auto_map"}
    try:
        if values.get("model_type") == "new":
            values = gte_values(values)
    except (CareError, ArithmeticError, LookupError, TypeError, ValueError):
        return None  # transformers' way says what is wrong
    kind = values.get("model_type")
    if kind not in DEFAULTS or any(values.get(name) is not None for name in _UNKNOWN_HERE):
        return None
    values = DEFAULTS[kind] | values
    if not all(_fits(name, values[name], default) for name, default in DEFAULTS[kind].items()):
        return None
    if not all(values[name] > 0 for name in _SIZES if name in values):
        return None
    padding = values["pad_token_id"]
    if not (padding is None and "roberta" not in kind) and not (
        _is_int(padding) and 0 <= padding < values["vocab_size"]
    ):
        return None
    if "rope_parameters" in values:
        rope = _rope(values, kind)
        if rope is None:
            return None
        values = {k: v for k, v in values.items() if k not in ("rope_theta", "rope_scaling")}
        values["rope_parameters"] = rope
    return _qwen3(values) if kind == "qwen3" else _divided(values)


def _divided(values: Config) -> Config | None:
    return None if values["hidden_size"] % values["num_attention_heads"] else values


def _qwen3(values: Config) -> Config | None:
    heads, layers = values["num_attention_heads"], values["num_hidden_layers"]
    pairs = heads if values["num_key_value_heads"] is None else values["num_key_value_heads"]
    if not _is_int(pairs) or pairs < 1 or heads % pairs or values["head_dim"] % 2:
        return None
    if values["use_sliding_window"]:
        return None
    kinds = ["full_attention"] * layers
    if values["layer_types"] not in (None, kinds):
        return None
    return values | {"num_key_value_heads": pairs, "sliding_window": None, "layer_types": kinds}


def _rope(values: Config, kind: str) -> Config | None:
    """Return the parameters of the rotary position embedding; None if they are of a type that is not known here."""
    found = values.get("rope_scaling") or values["rope_parameters"] or {}
    if not isinstance(found, dict) or not set(found) <= {"rope_type", "type", "rope_theta", "factor"}:
        return None
    found = dict(found)
    found.setdefault("rope_theta", values.get("rope_theta", _ROPE_THETA[kind]))
    found.setdefault("rope_type", found.get("type", "default"))
    numbers = [found["rope_theta"], *([found.get("factor")] if found["rope_type"] == "linear" else [])]
    if found["rope_type"] not in ("default", "linear") or not all(map(_is_positive, numbers)):
        return None
    return found


def _fits(name: str, value: Any, default: Any) -> bool:
    if name in _OPTIONAL:
        return True  # checked where it is used, if it is
    if isinstance(default, float):
        return isinstance(value, float) or value == 0
    return type(value) is type(default)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def gte_values(values: Mapping[str, Any]) -> Config:
    """Translate the configuration of an original gte checkpoint (``model_type: "new"``).

    Those networks scale RoPE statically by NTK: base times the factor, and every frequency divided by
    factor^(2 / head dimension). transformers calls this rope_type ``linear``.

    Raises
    ------
    CareError
        It scales RoPE in another way.
    """
    return {k: v for k, v in values.items() if k not in ("rope_theta", "rope_scaling", "architectures")} | {
        "model_type": "gte",
        "rope_parameters": _rope_parameters(values),
    }


def _rope_parameters(values: Mapping[str, Any]) -> Config:
    if "rope_parameters" in values:
        return values["rope_parameters"]
    theta = float(values.get("rope_theta", 10_000.0))
    scaling = values.get("rope_scaling")
    if not scaling:
        return {"rope_type": "default", "rope_theta": theta}
    kind = scaling.get("type", scaling.get("rope_type"))
    if kind != "ntk":
        raise CareError(f"rope_scaling type {kind!r} is not supported for a gte network; use ntk")
    factor = float(scaling["factor"])
    head = int(values["hidden_size"]) // int(values["num_attention_heads"])
    return {"rope_type": "linear", "rope_theta": theta * factor, "factor": factor ** (2 / head)}
