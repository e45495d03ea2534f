"""Runs an exported TensorRT engine on an NVIDIA GPU, with one optimisation profile per bucket of shapes.

An engine only runs with the TensorRT version and on the GPU model that it was built with. Both are recorded in
``export.json`` and checked before loading.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from care_accel.encoding.runtimes.onnxruntime_cpu import INPUTS, OUTPUT
from care_accel.errors import CareError

ENGINE = "model.engine"


class Bucket(NamedTuple):
    """The largest shape of one optimisation profile; a batch uses the smallest bucket that fits."""

    batch: int
    tokens: int


BUCKETS = (
    Bucket(1, 16),
    Bucket(1, 32),
    Bucket(1, 64),
    Bucket(8, 32),
    Bucket(32, 32),
    Bucket(32, 64),
    Bucket(32, 128),
)


def buckets_for(max_tokens: int) -> list[Bucket]:
    """Return the standard buckets up to ``max_tokens``, and one of that length."""
    longest = Bucket(32, max_tokens)
    return [b for b in BUCKETS if b.tokens <= max_tokens and b != longest] + [longest]


def choose_bucket(buckets: Sequence[Bucket], batch: int, tokens: int) -> int:
    """Return the position of the bucket that runs a batch with the least padding.

    If no bucket has enough rows, it is the one that needs the fewest runs; the caller splits the batch.

    Raises
    ------
    CareError
        The texts are longer than every bucket.
    """
    fitting = [i for i, bucket in enumerate(buckets) if bucket.tokens >= tokens]
    if not fitting:
        raise CareError(
            f"a text has {tokens} tokens, but the engine was built for {max(b.tokens for b in buckets)}; export the "
            "model again"
        )
    runs = {i: -(-batch // buckets[i].batch) for i in fitting}
    return min(fitting, key=lambda i: (runs[i], buckets[i].batch * buckets[i].tokens))


def import_tensorrt() -> Any:
    """Import tensorrt.

    Raises
    ------
    CareError
        It is not installed; the message says how to install it.
    """
    try:
        import tensorrt
    except ImportError:
        raise CareError(
            "tensorrt is not installed: pip install 'care-accel[tensorrt]' on a machine with an NVIDIA GPU"
        ) from None
    return tensorrt


def stamp(tensorrt: Any) -> dict[str, str]:
    """Return what an engine depends on: the TensorRT version and the GPU's name."""
    import torch

    return {"tensorrt": str(tensorrt.__version__), "gpu": torch.cuda.get_device_name()}


def stamp_mismatch(recorded: Mapping[str, Any], here: Mapping[str, str]) -> str | None:
    """Return how an engine's stamp differs from this machine's; None if it matches."""
    labels = {"tensorrt": "TensorRT", "gpu": "GPU"}
    for name, label in labels.items():
        if recorded.get(name) != here[name]:
            return f"its engine was built with {label} {recorded.get(name)}, this machine has {label} {here[name]}"
    return None


class TensorRTRuntime:
    """Runs an engine that `care_accel.export` built.

    Parameters
    ----------
    file : Path
        ``model.engine``.
    buckets : sequence of Bucket
        Buckets of the engine's profiles, in the same order.
    width : int
        Embedding dimension.
    device : str
        ``"cuda"`` or one GPU.

    Raises
    ------
    CareError
        The engine cannot be loaded, or tensorrt is not installed.
    """

    def __init__(self, file: Path, buckets: Sequence[Bucket], width: int, device: str = "cuda") -> None:
        import torch

        trt = import_tensorrt()
        self.device = device
        self._buckets = list(buckets)
        self._width = width
        self._lock = threading.Lock()  # a context runs one batch at a time
        with torch.cuda.device(device):
            self._stream = torch.cuda.Stream()
            self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
            self._engine = self._runtime.deserialize_cuda_engine(file.read_bytes())
            if self._engine is None:
                raise CareError(f"{file}: TensorRT {trt.__version__} cannot load it; export the model again")
            # One per profile: switching profiles in one context would block.
            self._contexts = [self._context(i) for i in range(len(self._buckets))]

    def _context(self, profile: int) -> Any:
        context = self._engine.create_execution_context()
        if context is None or not context.set_optimization_profile_async(profile, self._stream.cuda_stream):
            raise CareError(
                f"TensorRT cannot create an execution context for profile {profile}; check for free GPU memory"
            )
        self._stream.synchronize()
        return context

    def __call__(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Encode one padded batch, ``[batch, tokens]`` each, to float32 ``[batch, width]``."""
        position = choose_bucket(self._buckets, *ids.shape)
        rows = self._buckets[position].batch
        with self._lock:
            parts = [
                self._run(position, ids[start : start + rows], mask[start : start + rows])
                for start in range(0, len(ids), rows)
            ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run(self, position: int, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        import torch

        context = self._contexts[position]
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            tensors = {
                name: torch.from_numpy(np.ascontiguousarray(values)).to(self.device)
                for name, values in zip(INPUTS, (ids, mask), strict=True)
            }
            vectors = torch.empty((len(ids), self._width), dtype=torch.float32, device=self.device)
            for name, tensor in tensors.items():
                context.set_input_shape(name, tuple(tensor.shape))
                context.set_tensor_address(name, tensor.data_ptr())
            context.set_tensor_address(OUTPUT, vectors.data_ptr())
            if not context.execute_async_v3(self._stream.cuda_stream):
                raise CareError(f"TensorRT could not run a batch of {ids.shape[0]} x {ids.shape[1]} tokens")
            return vectors.cpu().numpy()  # waits for the stream
