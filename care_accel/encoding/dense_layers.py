"""Dense layers between pooling and slicing, as a module for every graph and runtime that PyTorch makes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import normalize

from care_accel.encoding.spec import Dense

# Those of sentence-transformers; `nn.GELU` is the exact one, not the tanh approximation.
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
}


class DenseLayers(nn.Module):
    """Pooled vectors to the vectors that are sliced and normalised, in float32.

    Parameters
    ----------
    layers : sequence of Dense
    weights : sequence of (torch.Tensor, torch.Tensor or None)
        Weight ``[outputs, inputs]`` and bias ``[outputs]`` of each layer, float32.
    """

    def __init__(
        self, layers: Sequence[Dense], weights: Sequence[tuple[torch.Tensor, torch.Tensor | None]]
    ) -> None:
        super().__init__()
        self._normalize = [layer.normalize for layer in layers]
        self.linear = nn.ModuleList()
        self.activation = nn.ModuleList(_ACTIVATIONS[layer.activation]() for layer in layers)
        for weight, bias in weights:
            linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
            linear.weight = nn.Parameter(weight, requires_grad=False)
            if bias is not None:
                linear.bias = nn.Parameter(bias, requires_grad=False)
            self.linear.append(linear)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Transform float32 ``[batch, hidden]`` to float32 ``[batch, outputs]``."""
        for normalized, linear, activation in zip(self._normalize, self.linear, self.activation, strict=True):
            pooled = activation(linear(normalize(pooled, dim=-1) if normalized else pooled))
        return pooled
