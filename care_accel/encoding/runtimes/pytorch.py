"""The network as PyTorch runs it: eagerly on the CPU; on a GPU as CUDA graphs, and eagerly beyond their buckets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from care_accel.encoding.spec import EncoderSpec
from care_accel.errors import CareError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class PyTorchRuntime:
    """Runs a transformers network and reduces its hidden states to vectors.

    Of the last layer only the pooled token is computed where the network allows it (see `PooledNetwork`). Attention
    is PyTorch's scaled_dot_product_attention, which picks its fused kernels. On a GPU, graphs of small batches are
    captured now (see `runtimes.cuda_graphs` for what that costs); results equal the eager ones to rounding.

    Parameters
    ----------
    network : transformers.PreTrainedModel
        In evaluation mode; moved to the spec's device.
    spec : EncoderSpec
    graphs : bool
        Whether a GPU may use CUDA graphs.
    compiled : bool
        Whether PyTorch's compiler fuses the layers that graphs run (see `runtimes.compiled`); without graphs nothing is fused.

    Attributes
    ----------
    graphs : CudaGraphs or None
        None on the CPU, or where they are not wanted.
    counts : GraphCounts
        Batches by how they ran, and what filling buckets cost.

    Raises
    ------
    CareError
        The spec asks for a device that is not there.
    """

    def __init__(
        self, network: PreTrainedModel, spec: EncoderSpec, *, graphs: bool = True, compiled: bool = False
    ) -> None:
        from care_accel.encoding.last_layer import PooledNetwork
        from care_accel.encoding.runtimes.cuda_graphs import CudaGraphs, GraphCounts, buckets_up_to

        self.device = resolve_device(spec.device)
        self.network = network.to(self.device)
        self._encode = PooledNetwork(self.network, spec)
        self.counts = GraphCounts()
        self.graphs: CudaGraphs | None = None
        if graphs and self.device.startswith("cuda"):
            # Batches beyond the buckets run as they are: their sizes would have programs made while somebody waits.
            forward = self._encode
            if compiled:
                from care_accel.encoding.runtimes.compiled import with_compiled_layers

                forward = with_compiled_layers(forward, self.device)
            self.graphs = CudaGraphs(forward, self.device, buckets_up_to(spec.max_tokens))

    def __call__(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Encode one padded batch, ``[batch, tokens]`` each, to float32 ``[batch, width]``."""
        import torch

        if bucket := self._bucket(ids):
            assert self.graphs is not None
            return self.graphs.run(ids, mask, bucket)
        with torch.inference_mode():
            return self._eagerly(ids, mask).cpu().numpy()

    def on_device(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> torch.Tensor:
        """Encode one batch as a call does, to a float32 tensor ``[batch, width]`` that stays on the device."""
        import torch

        if bucket := self._bucket(ids):
            assert self.graphs is not None
            return self.graphs.run_on_device(ids, mask, bucket)
        with torch.inference_mode():
            return self._eagerly(ids, mask)

    def _bucket(self, ids: NDArray[np.int64]) -> tuple[int, int] | None:
        """Return the bucket that a batch is run in, None for one that runs eagerly, and count it."""
        bucket = None if self.graphs is None else self.graphs.bucket_for(*ids.shape)
        if bucket is None:
            self.counts.eager += 1
        else:
            self.counts.replayed += 1
            self.counts.bucket_padding += bucket[0] * bucket[1] - ids.size
        return bucket

    def _eagerly(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> torch.Tensor:
        import torch

        return self._encode(torch.from_numpy(ids).to(self.device), torch.from_numpy(mask).to(self.device))


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
