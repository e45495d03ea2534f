"""Attention within each of several texts that lie one after another, without padding.

The operator ``care_accel::packed_attention`` is FlashAttention for variable lengths on a GPU (PyTorch's own, so nothing has to be
installed), and one fused attention a text on the CPU. `torch.compile` takes it as one node on either.
"""

from __future__ import annotations

import copy
import inspect
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The name of the attention implementation in transformers.
_IMPLEMENTATION = "care_accel_packed"


class Segments(NamedTuple):
    """Where texts begin and end among the tokens of a pack.

    Attributes
    ----------
    starts : torch.Tensor
        int32 ``[texts + 1]``; the last value is the number of tokens.
    longest : int
        Not below the tokens of any text. A GPU starts blocks for so many, and those without tokens end at once.
    """

    starts: torch.Tensor
    longest: int


@torch.library.custom_op("care_accel::packed_attention", mutates_args=(), device_types="cpu")
def packed_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    query_starts: torch.Tensor,
    key_starts: torch.Tensor,
    longest_query: int,
    longest_key: int,
    scale: float,
    causal: bool,
) -> torch.Tensor:
    """Return the attention of each text's queries to its own keys.

    Parameters
    ----------
    query : torch.Tensor
        ``[queries, heads, head size]``.
    keys, values : torch.Tensor
        ``[tokens, key heads, head size]``; the heads are a multiple of the key heads.
    query_starts, key_starts : torch.Tensor
        int32 ``[texts + 1]``, as in `Segments`.
    longest_query, longest_key : int
        As in `Segments`.
    scale : float
        Multiplies the products.
    causal : bool
        Whether a query sees only keys up to its own place; then there are as many queries as keys.

    Returns
    -------
    torch.Tensor
        ``[queries, heads, head size]``, contiguous whatever the strides of the query.
    """
    attended = query.new_empty(query.shape)
    groups = query.shape[1] // keys.shape[1]
    for (first, last), (start, end) in zip(
        pairwise(query_starts.tolist()), pairwise(key_starts.tolist()), strict=True
    ):
        one_query, one_keys, one_values = (
            part.transpose(0, 1).unsqueeze(0)
            for part in (query[first:last], keys[start:end], values[start:end])
        )
        if groups > 1:
            one_keys, one_values = (part.repeat_interleave(groups, dim=1) for part in (one_keys, one_values))
        found = scaled_dot_product_attention(one_query, one_keys, one_values, scale=scale, is_causal=causal)
        attended[first:last] = found[0].transpose(0, 1)
    return attended


@packed_attention.register_kernel("cuda")
def _on_cuda(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    query_starts: torch.Tensor,
    key_starts: torch.Tensor,
    longest_query: int,
    longest_key: int,
    scale: float,
    causal: bool,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    # Older releases let a group of heads share a key head without being told.
    told = "enable_gqa" in inspect.signature(varlen_attn).parameters
    options: dict[str, Any] = {"enable_gqa": query.shape[1] != keys.shape[1]} if told else {}
    found = varlen_attn(
        query.contiguous(), keys.contiguous(), values.contiguous(), query_starts, key_starts, longest_query, longest_key,
        scale=scale, window_size=(-1, 0 if causal else -1), **options,
    )  # fmt: skip
    assert isinstance(found, torch.Tensor)
    return found


@packed_attention.register_fake
def _of_shapes(query: torch.Tensor, *_: Any) -> torch.Tensor:
    return query.new_empty(query.shape)


def missing_on_a_gpu() -> str | None:
    """Return what this release of PyTorch lacks to compute packed attention on a GPU, None if nothing."""
    try:
        from torch.nn.attention.varlen import varlen_attn

        if "window_size" in inspect.signature(varlen_attn).parameters:
            return None
    except ImportError:
        pass
    return f"PyTorch {torch.__version__} has no causal attention for variable lengths; 2.11 has"


def is_causal(attention: nn.Module) -> bool:
    """Return whether a token sees only those before it. transformers' decoders see all with ``is_causal`` false in their config."""
    return bool(attention.is_causal and getattr(attention.config, "is_causal", True))


def with_packed_attention(network: PreTrainedModel) -> PreTrainedModel:
    """Return a copy whose attention stays within each text of a pack; it shares its weights with the original.

    The copy's ``forward`` takes ``segments``, a `Segments`, and no mask.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(_IMPLEMENTATION, _attention_of_transformers)
    config = copy.deepcopy(network.config)
    # Not set_attn_implementation, which modifies what is shared with the original. For an implementation that has no function
    # of masks, transformers makes none.
    config._attn_implementation = _IMPLEMENTATION
    return _with_config(network, config)


def _with_config(module: Any, config: Any) -> Any:
    copied = copy.copy(module)
    copied._modules = {name: child and _with_config(child, config) for name, child in module._modules.items()}
    if hasattr(module, "config"):
        copied.config = config
    return copied


def _attention_of_transformers(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    scaling: float,
    segments: Segments,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """One pack, ``[1, heads, tokens, head size]`` each, to ``[1, tokens, heads, head size]``."""
    starts, longest = segments
    query, key, value = (part[0].transpose(0, 1) for part in (query, key, value))
    found = packed_attention(query, key, value, starts, starts, longest, longest, scaling, is_causal(module))
    return found.unsqueeze(0), None
