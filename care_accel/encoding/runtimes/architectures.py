"""Networks as descriptions for the native engine: one function for each ``model_type`` of transformers.

A description is made from the plain values of ``config.json`` and from weights by name, as NumPy arrays: no function here needs
PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from care_accel.errors import CareError

Array = NDArray[np.float32]
Weights = Mapping[str, Array]
Config = Mapping[str, Any]

# By transformers' name. Its variants of one function differ by rounding alone.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


@dataclass(frozen=True)
class Description:
    """A network as ``_native.Encoder`` takes it; ``csrc/include/care/encoder.hpp`` has the arithmetic.

    Attributes
    ----------
    network : dict
        Arguments of ``_native.Encoder``, without precision and instruction set.
    layers : list of dict
        Arguments of ``add_layer``.
    """

    network: dict[str, Any]
    layers: list[dict[str, Any]]


def unsupported(config: Config) -> str | None:
    """Return why the native engine does not support a network, or None if it does.

    Parameters
    ----------
    config : mapping
        The values of its ``config.json``.
    """
    kind = config.get("model_type")
    if kind not in _ARCHITECTURES:
        *some, last = sorted(_ARCHITECTURES)
        return f"supports {', '.join(some)} and {last} networks, not {kind}"
    if config.get("hidden_act") not in ACTIVATIONS:
        return f"supports the activations {', '.join(ACTIVATIONS)}, not {config.get('hidden_act')!r}"
    return _ARCHITECTURES[kind].refusal(config)


def describe(
    config: Config, weights: Weights, max_tokens: int, rotary: tuple[Array, Array] | None = None
) -> Description:
    """Describe a supported network.

    Parameters
    ----------
    config : mapping
        The values of its ``config.json``.
    weights : mapping of str to numpy.ndarray
        By their names in transformers' network, float32, C-contiguous.
    max_tokens : int
        Longest text; a table of positions may hold less.
    rotary : tuple of numpy.ndarray, optional
        Cosines and sines of the rotary position embedding, ``[max_tokens, head size]``; computed by default.

    Raises
    ------
    CareError
        Weights are missing, or the rotary position embedding is of a type that is not computed here.
    """
    made = _ARCHITECTURES[config["model_type"]]
    try:
        return made.describe(_Network(config, weights, max_tokens, rotary))
    except KeyError as missing:
        raise CareError(f"the network lacks the weights {missing.args[0]!r}") from None


class _Network:
    """Values and weights of a network, with the ways to read them that architectures have in common."""

    def __init__(
        self, config: Config, weights: Weights, max_tokens: int, rotary: tuple[Array, Array] | None
    ) -> None:
        self.config, self.weights, self.max_tokens = config, weights, max_tokens
        self._rotary = rotary

    def linear(self, name: str) -> tuple[Array, Array | None]:
        return self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")

    norm = linear  # one has weights and biases too

    def head(self, query: str) -> int:
        """Return the size of a head from the weights of the first layer's queries."""
        return self.weights[f"{query}.weight"].shape[0] // self.config["num_attention_heads"]

    def sizes(self, **others: Any) -> dict[str, Any]:
        """Return the arguments that every architecture has."""
        heads = self.config["num_attention_heads"]
        return {
            "heads": heads,
            "key_value_heads": heads,
            "intermediate": self.config["intermediate_size"],
            "activation": ACTIVATIONS[self.config["hidden_act"]],
            **others,
        }

    def layers(self, describe: Callable[[int], dict[str, Any]]) -> list[dict[str, Any]]:
        return [describe(i) for i in range(self.config["num_hidden_layers"])]

    def token_type(self) -> Array | None:
        """Return the row of token type 0, which every token has."""
        types = self.weights.get("embeddings.token_type_embeddings.weight")
        return None if types is None or not len(types) else types[0]

    def rotary(self, head_size: int) -> tuple[Array, Array]:
        if self._rotary is not None:
            return self._rotary
        values = self.config["rope_parameters"]
        kind = values.get("rope_type", "default")
        if kind not in ("default", "linear"):
            raise CareError(f"rope_type {kind!r} needs its network in PyTorch")
        exponents = np.arange(0, head_size, 2, dtype=np.float32) / np.float32(head_size)
        frequencies = np.float32(1) / np.float32(values["rope_theta"]) ** exponents
        frequencies /= np.float32(values["factor"] if kind == "linear" else 1)
        angles = np.arange(self.max_tokens, dtype=np.float32)[:, None] * np.concatenate([frequencies] * 2)
        return np.cos(angles), np.sin(angles)


def _rope_refusal(config: Config) -> str | None:
    kind = (config.get("rope_parameters") or {}).get("rope_type", "default")
    if "dynamic" in kind or kind == "longrope":
        return f"does not support rope_type {kind!r}, which depends on the length of a batch"
    return None


def _gte(network: _Network) -> Description:
    def layer(i: int) -> dict[str, Any]:
        at = f"layers.{i}"
        return {
            "query": network.linear(f"{at}.self_attn.q_proj"),
            "key": network.linear(f"{at}.self_attn.k_proj"),
            "value": network.linear(f"{at}.self_attn.v_proj"),
            "output": network.linear(f"{at}.self_attn.o_proj"),
            "attention_norm": network.norm(f"{at}.post_attention_layernorm"),
            "gate": network.linear(f"{at}.mlp.gate_proj"),
            "up": network.linear(f"{at}.mlp.up_proj"),
            "down": network.linear(f"{at}.mlp.down_proj"),
            "feed_forward_norm": network.norm(f"{at}.post_mlp_layernorm"),
        }

    head = network.head("layers.0.self_attn.q_proj")
    return Description(
        network.sizes(
            word_embeddings=network.weights["embeddings.word_embeddings.weight"],
            token_type=network.token_type(),
            norm=network.norm("embeddings.LayerNorm"),
            rotary=network.rotary(head),
            positions=network.max_tokens,
            head_size=head,
            epsilon=network.config["layer_norm_eps"],
            gated=True,
        ),
        network.layers(layer),
    )


def _bert_refusal(config: Config) -> str | None:
    # transformers' newer versions ignore other position embeddings without a word.
    if (kind := config.get("position_embedding_type") or "absolute") != "absolute":
        return f"supports absolute position embeddings, not position_embedding_type {kind!r}"
    for name in ("is_decoder", "add_cross_attention"):
        if config.get(name):
            return f"supports encoders, not a network with {name}"
    return None


def _bert(network: _Network) -> Description:
    return _bert_family(network, first_position=0)


def _roberta(network: _Network) -> Description:
    # Positions begin after the padding id, which has a row of its own and is not counted where a text has it.
    padding = network.config["pad_token_id"]
    return _bert_family(network, first_position=padding + 1, uncounted=padding)


def _bert_family(network: _Network, first_position: int, **others: Any) -> Description:
    def layer(i: int) -> dict[str, Any]:
        at = f"encoder.layer.{i}"
        return {
            "query": network.linear(f"{at}.attention.self.query"),
            "key": network.linear(f"{at}.attention.self.key"),
            "value": network.linear(f"{at}.attention.self.value"),
            "output": network.linear(f"{at}.attention.output.dense"),
            "attention_norm": network.norm(f"{at}.attention.output.LayerNorm"),
            "up": network.linear(f"{at}.intermediate.dense"),
            "down": network.linear(f"{at}.output.dense"),
            "feed_forward_norm": network.norm(f"{at}.output.LayerNorm"),
        }

    table = network.weights["embeddings.position_embeddings.weight"]
    return Description(
        network.sizes(
            word_embeddings=network.weights["embeddings.word_embeddings.weight"],
            position_embeddings=table,
            first_position=first_position,
            token_type=network.token_type(),
            norm=network.norm("embeddings.LayerNorm"),
            positions=min(network.max_tokens, len(table) - first_position),
            head_size=network.head("encoder.layer.0.attention.self.query"),
            epsilon=network.config["layer_norm_eps"],
            gated=False,
            **others,
        ),
        network.layers(layer),
    )


def _qwen3_refusal(config: Config) -> str | None:
    if any(kind != "full_attention" for kind in config.get("layer_types") or ()):
        return "supports full attention, not sliding windows"
    return _rope_refusal(config)


def _qwen3(network: _Network) -> Description:
    count = network.config["num_hidden_layers"]

    def layer(i: int) -> dict[str, Any]:
        at = f"layers.{i}"
        # A norm is that of the sum before it: a layer's last one is what the next layer reads.
        after = "norm" if i + 1 == count else f"layers.{i + 1}.input_layernorm"
        return {
            "query": network.linear(f"{at}.self_attn.q_proj"),
            "key": network.linear(f"{at}.self_attn.k_proj"),
            "value": network.linear(f"{at}.self_attn.v_proj"),
            "output": network.linear(f"{at}.self_attn.o_proj"),
            "query_norm": network.weights[f"{at}.self_attn.q_norm.weight"],
            "key_norm": network.weights[f"{at}.self_attn.k_norm.weight"],
            "attention_norm": network.norm(f"{at}.post_attention_layernorm"),
            "gate": network.linear(f"{at}.mlp.gate_proj"),
            "up": network.linear(f"{at}.mlp.up_proj"),
            "down": network.linear(f"{at}.mlp.down_proj"),
            "feed_forward_norm": network.norm(after),
        }

    head = network.head("layers.0.self_attn.q_proj")
    return Description(
        network.sizes(
            word_embeddings=network.weights["embed_tokens.weight"],
            norm=network.norm("layers.0.input_layernorm"),
            rotary=network.rotary(head),
            positions=network.max_tokens,
            key_value_heads=network.config["num_key_value_heads"],
            head_size=head,
            epsilon=network.config["rms_norm_eps"],
            norm_kind="rms",
            norm_place="pre",
            gated=True,
            # transformers makes attention bidirectional for this value of a configuration.
            causal=network.config.get("is_causal", True),
        ),
        network.layers(layer),
    )


@dataclass(frozen=True)
class _Architecture:
    describe: Callable[[_Network], Description]
    refusal: Callable[[Config], str | None]


_ARCHITECTURES = {
    "bert": _Architecture(_bert, _bert_refusal),
    "gte": _Architecture(_gte, _rope_refusal),
    "qwen3": _Architecture(_qwen3, _qwen3_refusal),
    "roberta": _Architecture(_roberta, _bert_refusal),
    "xlm-roberta": _Architecture(_roberta, _bert_refusal),
}
