"""The PyTorch runtime: eager on the CPU; on a GPU CUDA graphs, and eager for batches larger than their buckets."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from care_accel.encoding.spec import EncoderSpec
from care_accel.errors import CareError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from care_accel.encoding.dense_layers import DenseLayers


_DEVICES = Path("/dev")
_GPU_FILES = ("nvidia*", "nvhost*", "nvmap", "kfd", "dxg")


class PyTorchRuntime:
    """Runs a transformers network and pools its hidden states into embeddings.

    The last layer computes only the pooled token if the network allows it (see `PooledNetwork`). Attention is PyTorch's
    scaled_dot_product_attention with its fused kernels. On a GPU the constructor captures CUDA graphs for small batches
    (see `runtimes.cuda_graphs` for the cost); results equal the eager ones up to rounding.

    Parameters
    ----------
    network : transformers.PreTrainedModel
        In evaluation mode; moved to the spec's device.
    spec : EncoderSpec
    dense : DenseLayers, optional
        The dense layers of the spec (`Checkpoint.load_dense`); needed if it has any.
    graphs : bool
        Use CUDA graphs on a GPU.
    compiled : bool
        Fuse the layers of the CUDA graphs with ``torch.compile`` (see `runtimes.compiled`); no effect without graphs.

    Attributes
    ----------
    graphs : CudaGraphs or None
        None on the CPU or if disabled.
    counts : GraphCounts
        Graph and eager batches, and bucket padding.

    Raises
    ------
    CareError
        The spec's device is not available.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        spec: EncoderSpec,
        dense: DenseLayers | None = None,
        *,
        graphs: bool = True,
        compiled: bool = False,
    ) -> None:
        from care_accel.encoding.last_layer import PooledNetwork
        from care_accel.encoding.runtimes.cuda_graphs import CudaGraphs, GraphCounts, buckets_up_to

        self.device = resolve_device(spec.device)
        self.network = network.to(self.device)
        self._encode = PooledNetwork(
            self.network, spec, None if dense is None else dense.to(self.device)
        ).eval()
        self.counts = GraphCounts()
        self.graphs: CudaGraphs | None = None
        if graphs and self.device.startswith("cuda"):
            # Batches larger than every bucket stay uncompiled: their shapes would trigger compilation during a request.
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
        """Encode one batch as ``__call__`` does, to a float32 tensor ``[batch, width]`` on the device."""
        import torch

        if bucket := self._bucket(ids):
            assert self.graphs is not None
            return self.graphs.run_on_device(ids, mask, bucket)
        with torch.inference_mode():
            return self._eagerly(ids, mask)

    def _bucket(self, ids: NDArray[np.int64]) -> tuple[int, int] | None:
        """Return the bucket of a batch, None if it runs eagerly; update the counters."""
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


def may_have_gpu() -> bool:
    """Return whether it is worth asking PyTorch for a GPU: there is a device file or a driver of one.

    False only where PyTorch would find none: on Linux it needs the devices of NVIDIA (``nvidia*``; ``nvhost*`` and ``nvmap`` on
    Jetson), AMD (``kfd``) or WSL (``dxg``), or NVIDIA's driver library in the way of any sandbox.
    """
    if not sys.platform.startswith("linux") or "torch" in sys.modules:
        return True
    if any(next(_DEVICES.glob(pattern), None) for pattern in _GPU_FILES):
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def resolve_device(device: str) -> str:
    """Return the torch device for a spec's ``device``; ``"auto"`` is a GPU if there is one.

    Raises
    ------
    CareError
        The device is unknown or not available.
    """
    if device == "cpu" or (device == "auto" and not may_have_gpu()):
        return "cpu"  # PyTorch takes seconds to import
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise CareError(f"unknown device {device!r}; choose auto, cpu or cuda") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise CareError(f"device {device!r}: PyTorch finds no GPU on this machine; use device='cpu'")
    try:
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError):  # depends on the device type
        raise CareError(f"device {device!r} does not work here; use device='cpu'") from None
    return device
