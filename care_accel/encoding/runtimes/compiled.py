"""A network whose layers are fused by ``torch.compile``: about half as many GPU kernels.

Even as a CUDA graph, a batch of queries is bound by the number of kernels. Layers are compiled one by one with dynamic
shapes: all ordinary layers share one program, so compilation takes seconds, not a minute per bucket.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from torch import nn

from care_accel.encoding.last_layer import PooledNetwork
from care_accel.encoding.packed_network import PackedNetwork

log = logging.getLogger(__name__)


def with_compiled_layers(
    encode: PooledNetwork | PackedNetwork, example: tuple[Any, ...], backend: str = "inductor"
) -> nn.Module:
    """Return a copy with compiled layers; it shares its weights with the original, which is not modified.

    Embeddings equal the original's up to rounding. If the compiler is missing or fails, a warning is logged and the
    original returned.

    Parameters
    ----------
    encode : PooledNetwork or PackedNetwork
    example : tuple
        Arguments to compile for. Sizes differ from each other and from the network's, and tensors are aligned as later ones:
        the compiler specialises on alignment and treats equal sizes as the same symbol.
    backend : str
        Backend of ``torch.compile``.
    """
    compiled = copy.copy(encode)
    network = _with_compiled_layers(encode.network, backend)
    if network is None:
        log.warning("the network is not compiled: %s has no list of layers", type(encode.network).__name__)
        return encode
    compiled._modules = encode._modules | {"network": network}
    try:
        with torch.inference_mode():
            compiled(*example)
    except (RuntimeError, OSError) as cause:  # no Triton, no C compiler, or an unsupported operation
        log.warning("the network is not compiled: %s", " ".join(str(cause).split())[:300])
        return encode
    return compiled


def _with_compiled_layers(module: Any, backend: str) -> Any:
    """Return a copy of a network, or of its part that has the layers; None if it has none."""
    for name in ("layers", "layer", "encoder"):
        child = getattr(module, name, None)
        if isinstance(child, nn.ModuleList):
            layers = [copy.copy(layer) for layer in child]
            for layer in layers:
                layer.compile(dynamic=True, backend=backend)
            changed: nn.Module | None = nn.ModuleList(layers)
        else:
            changed = None if child is None else _with_compiled_layers(child, backend)
        if changed is not None:
            copied = copy.copy(module)
            copied._modules = module._modules | {name: changed}
            return copied
    return None
