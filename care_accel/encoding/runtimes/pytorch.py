"""The PyTorch runtime: packed texts; on a GPU CUDA graphs of padded batches, as far as their buckets go."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

    The last layer computes only the pooled token if the network allows it (see `PooledNetwork`). On a GPU the constructor
    captures CUDA graphs for small batches (see `runtimes.cuda_graphs` for the cost). Larger batches, and on the CPU texts
    of several lengths, are packed without padding if the network allows it (see `PackedNetwork`). Results of all these ways
    are equal up to rounding.

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
        On a GPU, fuse the layers of CUDA graphs and of packed batches with ``torch.compile`` (see `runtimes.compiled`).

    Attributes
    ----------
    graphs : CudaGraphs or None
        None on the CPU or if disabled.
    counts : GraphCounts
        Graph, packed and eager batches, and bucket padding.
    not_packed : str or None
        Why the network cannot be packed; None if it can.

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
        import torch

        from care_accel.encoding.last_layer import PooledNetwork
        from care_accel.encoding.packed_network import PackedNetwork
        from care_accel.encoding.runtimes.cuda_graphs import CudaGraphs, GraphCounts, buckets_up_to

        self.device = resolve_device(spec.device)
        self.network = network.to(self.device)
        dense = None if dense is None else dense.to(self.device)
        self._encode = PooledNetwork(self.network, spec, dense).eval()
        self.not_packed = PackedNetwork.unsupported(self.network, self.device)
        self._packed: Any = None if self.not_packed else PackedNetwork(self.network, spec, dense).eval()
        self._on_gpu = self.device.startswith("cuda")
        self.counts = GraphCounts()
        self.graphs: CudaGraphs | None = None
        # Padded batches larger than every bucket stay uncompiled: their shapes would trigger compilation during a request.
        forward: Any = self._encode
        if compiled and self._on_gpu:
            from care_accel.encoding.runtimes.compiled import with_compiled_layers

            ids = torch.ones((2, 48), dtype=torch.int64, device=self.device)
            forward = with_compiled_layers(self._encode, (ids, torch.ones_like(ids)))
            if self._packed is not None:
                self._packed = with_compiled_layers(self._packed, self._packed.example(self.device))
        if graphs and self._on_gpu:
            self.graphs = CudaGraphs(forward, self.device, buckets_up_to(spec.max_tokens))

    def __call__(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Encode one padded batch, ``[batch, tokens]`` each, to float32 ``[batch, width]``."""
        if bucket := self._bucket(*ids.shape):
            assert self.graphs is not None
            self._count_replay(bucket, ids)
            return self.graphs.run(ids, mask, bucket)
        return self._eagerly(ids, mask).cpu().numpy()

    def on_device(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> torch.Tensor:
        """Encode one batch as ``__call__`` does, to a float32 tensor ``[batch, width]`` on the device."""
        if bucket := self._bucket(*ids.shape):
            assert self.graphs is not None
            self._count_replay(bucket, ids)
            return self.graphs.run_on_device(ids, mask, bucket)
        return self._eagerly(ids, mask)

    def packs(self, rows: Sequence[Sequence[int]]) -> bool:
        """Return whether texts are packed: where no graph fits them, and on the CPU where padding would be computed."""
        if self._packed is None:
            return False
        lengths = {len(row) for row in rows}
        if self._on_gpu:
            return self._bucket(len(rows), max(lengths)) is None
        return len(lengths) > 1

    def encode_rows(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Encode the token ids of some texts as one pack to float32 ``[texts, width]``, if `packs`."""
        return self.rows_on_device(rows).cpu().numpy()

    def rows_on_device(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Encode as `encode_rows` does, to a tensor on the device. Does not wait for a GPU."""
        import torch

        values, tokens, longest = self._packed.pack(rows)
        packed = torch.from_numpy(values)
        if self._on_gpu:
            # A copy from pinned memory waits for nothing.
            packed = packed.pin_memory().to(self.device, non_blocking=True)
        self.counts.packed += 1
        with torch.inference_mode():
            return self._packed(packed, tokens, longest)

    def _bucket(self, texts: int, tokens: int) -> tuple[int, int] | None:
        """Return the bucket of a batch, None if no graph fits it."""
        return None if self.graphs is None else self.graphs.bucket_for(texts, tokens)

    def _count_replay(self, bucket: tuple[int, int], ids: NDArray[np.int64]) -> None:
        self.counts.replayed += 1
        self.counts.bucket_padding += bucket[0] * bucket[1] - ids.size

    def _eagerly(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> torch.Tensor:
        import torch

        self.counts.eager += 1
        with torch.inference_mode():
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
