"""Skips the part of the last layer that pooling discards.

With first-token or last-token pooling only one token's state is used. The last layer then needs the keys and values of
all tokens, but query, attention, output projection, feed-forward and norms of that token only.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from care_accel.encoding.packed_attention import is_causal, packed_attention
from care_accel.encoding.runtimes import UNPOOLED
from care_accel.encoding.spec import EncoderSpec
from care_accel.kernels import Pooling, embed, pool, pooled_position, project

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from care_accel.encoding.dense_layers import DenseLayers


class PooledNetwork(nn.Module):
    """Token ids to embeddings: network, pooling, dense layers, slicing and normalising in one module.

    Embeddings equal those of the plain network up to rounding. For transformers' gte and qwen3 networks (with or without
    a merged LoRA) and ``first`` or ``last`` pooling, the last layer is computed for the pooled token only. Other
    networks, and ``mean`` pooling, run unchanged.

    The module has no value-dependent branches and adds no host synchronisation, so that ``torch.export``,
    ``torch.onnx.export``, ``torch.compile`` and CUDA graphs can capture it as one graph.

    Parameters
    ----------
    network : transformers.PreTrainedModel
        In evaluation mode. Its weights are shared, not copied; it is not modified.
    spec : EncoderSpec
        Provides pooling, order, width, and whether the prompt is pooled.
    dense : DenseLayers, optional
        The dense layers of the spec (`Checkpoint.load_dense`); needed if it has any.

    Attributes
    ----------
    trimmed : bool
        Whether the last layer computes only the pooled token.
    """

    def __init__(self, network: PreTrainedModel, spec: EncoderSpec, dense: DenseLayers | None = None) -> None:
        super().__init__()
        if bool(spec.dense) != (dense is not None):
            raise ValueError(
                "the dense layers of the spec and those given differ; give Checkpoint.load_dense(spec)"
            )
        self.dense = dense
        self._pools_all = spec.include_prompt
        self._pooling, self._order, self._width = spec.pooling, spec.order, spec.width
        trimmed = with_last_layer_of_pooled_tokens(network, spec.pooling)
        self.trimmed = trimmed is not None
        # A decoder would fill a KV cache that is never used.
        parameters = inspect.signature(network.forward).parameters
        self._options: dict[str, Any] = {"use_cache": False} if "use_cache" in parameters else {}
        self.network = network if trimmed is None else trimmed

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Encode one padded batch, int64 ``[batch, tokens]`` each, to float32 ``[batch, width]``.

        The mask is that of `Encoder.pad`: with ``include_prompt=False`` it is 2 at tokens that are not pooled.
        """
        mask, options = attention_mask, self._options
        if not self._pools_all:
            attention_mask = (mask != 0).to(mask.dtype)
            mask = attention_mask * (mask != UNPOOLED).to(mask.dtype)
        if self.trimmed:
            position = pooled_position(mask, self._pooling)
            options = options | {"pooled": PaddedTokens(position, attention_mask != 0)}
            mask = torch.ones_like(position).unsqueeze(1)
        hidden = self.network(input_ids=input_ids, attention_mask=attention_mask, **options).last_hidden_state
        if self.dense is None:
            return embed(hidden, mask, self._pooling, self._order, self._width)
        return project(self.dense(pool(hidden, mask, self._pooling)), self._width, self._order)


class PaddedTokens(NamedTuple):
    """The pooled token of each text of a padded batch.

    Attributes
    ----------
    position : torch.Tensor
        int64 ``[batch]``.
    tokens : torch.Tensor
        bool ``[batch, tokens]``: False at padding.
    """

    position: torch.Tensor
    tokens: torch.Tensor

    def of(self, states: torch.Tensor) -> torch.Tensor:
        """Select one token of each text: ``[batch, tokens, size]`` to ``[batch, 1, size]``."""
        return states[torch.arange(states.shape[0], device=states.device), self.position].unsqueeze(1)

    def attend(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, attention: Any
    ) -> torch.Tensor:
        """Let the queries, ``[batch, heads, head size]``, attend to their texts, ``[batch, tokens, key heads, head size]``."""
        visible = self.tokens
        if is_causal(attention):
            places = torch.arange(visible.shape[1], device=visible.device)
            visible = visible & (places <= self.position.unsqueeze(1))
        # Grouped-query attention: with one token, the query heads of a group are several queries to one key head.
        return scaled_dot_product_attention(
            query.view(query.shape[0], keys.shape[2], -1, query.shape[2]),
            keys.transpose(1, 2),
            values.transpose(1, 2),
            attn_mask=visible[:, None, None, :],
            scale=attention.scaling,
        )


class PackedTokens(NamedTuple):
    """The pooled token of each text of a pack; it sees the whole text.

    Attributes
    ----------
    places : torch.Tensor
        int64 ``[texts]``, among the tokens of the pack.
    starts, longest
        Of `Segments`.
    """

    places: torch.Tensor
    starts: torch.Tensor
    longest: int

    def of(self, states: torch.Tensor) -> torch.Tensor:
        """Select one token of each text: ``[1, tokens, size]`` to ``[texts, 1, size]``."""
        return states[0, self.places].unsqueeze(1)

    def attend(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, attention: Any
    ) -> torch.Tensor:
        """Let the queries, ``[texts, heads, head size]``, attend to their texts, ``[1, tokens, key heads, head size]``."""
        each = torch.arange(self.starts.shape[0], dtype=torch.int32, device=query.device)
        return packed_attention(
            query, keys[0], values[0], each, self.starts, 1, self.longest, attention.scaling, False
        )


_Pooled = PaddedTokens | PackedTokens


def _gte_layer(
    layer: Any, states: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor], pooled: _Pooled
) -> torch.Tensor:
    """Transformers' GteLayer (post-norm) for one token."""
    attended = _attend(layer.self_attn, states, rotation, pooled)
    token = layer.post_attention_layernorm(pooled.of(states) + attended)
    return layer.post_mlp_layernorm(token + layer.mlp(token))


def _qwen3_layer(
    layer: Any, states: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor], pooled: _Pooled
) -> torch.Tensor:
    """Transformers' Qwen3DecoderLayer (pre-norm) for one token."""
    attended = _attend(layer.self_attn, layer.input_layernorm(states), rotation, pooled)
    token = pooled.of(states) + attended
    return token + layer.mlp(layer.post_attention_layernorm(token))


_Compute = Callable[[Any, torch.Tensor, tuple[torch.Tensor, torch.Tensor], _Pooled], torch.Tensor]
_LAYERS: dict[str, _Compute] = {"GteModel": _gte_layer, "Qwen3Model": _qwen3_layer}


class _LastLayer(nn.Module):
    """Replaces the last layer; computes the pooled tokens only."""

    def __init__(self, layer: nn.Module, compute: _Compute) -> None:
        super().__init__()
        self.layer = layer
        self._compute = compute

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        pooled: _Pooled,
        **_: Any,
    ) -> torch.Tensor:
        return self._compute(self.layer, hidden_states, position_embeddings, pooled)


def with_last_layer_of_pooled_tokens(network: PreTrainedModel, pooling: Pooling) -> PreTrainedModel | None:
    """Return a copy whose last layer computes only pooled tokens, None if the network or the pooling does not allow it.

    Its ``forward`` takes ``pooled``, a `PaddedTokens` or `PackedTokens`. It shares its weights with the original.
    """
    compute = _LAYERS.get(type(network).__name__) if pooling != "mean" else None
    # Other layer types, such as sliding windows, mask keys that `_attend` would not.
    kinds = getattr(network.config, "layer_types", None) or ["full_attention"]
    if compute is None or kinds[-1] != "full_attention":
        return None
    # A shallow copy: modules are shared, only the list of layers differs. The network passes unknown keyword arguments on
    # to its layers; that is how the last layer receives the pooled tokens.
    trimmed = copy.copy(network)
    *others, last = network.layers
    trimmed._modules = network._modules | {"layers": nn.ModuleList([*others, _LastLayer(last, compute)])}
    return trimmed


def _attend(
    attention: Any,
    states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    pooled: _Pooled,
) -> torch.Tensor:
    """Self-attention of the pooled tokens over all states, ``[texts, 1, hidden]``."""
    batch, length, _ = states.shape
    token = pooled.of(states)
    query = attention.q_proj(token).view(token.shape[0], -1, attention.head_dim)
    keys = attention.k_proj(states).view(batch, length, -1, attention.head_dim)
    values = attention.v_proj(states).view(batch, length, -1, attention.head_dim)
    if hasattr(attention, "q_norm"):
        query, keys = attention.q_norm(query), attention.k_norm(keys)
    cos, sin = (part.expand(batch, -1, -1) for part in position_embeddings)
    query = _rotate(query, pooled.of(cos), pooled.of(sin))
    keys = _rotate(keys, cos.unsqueeze(2), sin.unsqueeze(2))
    attended = pooled.attend(query, keys, values, attention)
    return attention.o_proj(attended.reshape(token.shape[0], 1, -1))


def _rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply rotary position embeddings; each pair is one value from either half of a head."""
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat((-second, first), dim=-1) * sin
