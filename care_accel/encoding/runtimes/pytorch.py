"""The network as PyTorch runs it, eagerly, on the CPU or one GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from care_accel.encoding.spec import EncoderSpec
from care_accel.errors import CareError
from care_accel.kernels import pool, project

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PyTorchRuntime:
    """Runs a transformers network and reduces its hidden states to vectors.

    Parameters
    ----------
    network : transformers.PreTrainedModel
        In evaluation mode; moved to the spec's device.
    spec : EncoderSpec

    Raises
    ------
    CareError
        The spec asks for a device that is not there.
    """

    def __init__(self, network: PreTrainedModel, spec: EncoderSpec) -> None:
        self.device = resolve_device(spec.device)
        self.network = network.to(self.device)
        self._spec = spec

    def __call__(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Encode one padded batch, ``[batch, tokens]`` each, to float32 ``[batch, width]``."""
        import torch

        with torch.inference_mode():
            ids_tensor = torch.from_numpy(ids).to(self.device)
            mask_tensor = torch.from_numpy(mask).to(self.device)
            hidden = self.network(input_ids=ids_tensor, attention_mask=mask_tensor).last_hidden_state
            pooled = pool(hidden, mask_tensor, self._spec.pooling)
            return project(pooled, self._spec.width, self._spec.order).cpu().numpy()


def resolve_device(device: str) -> str:
    """Return the torch device for a spec's ``device``: ``"auto"`` is a GPU where there is one."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise CareError(f"unknown device {device!r}; choose auto, cpu or cuda") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise CareError(f"device {device!r}: this machine shows PyTorch no GPU; use device='cpu'")
    try:
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError):  # each kind of device has its own
        raise CareError(f"device {device!r} does not work here; use device='cpu'") from None
    return device
