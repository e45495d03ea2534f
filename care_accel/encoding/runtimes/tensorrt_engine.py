"""An exported TensorRT engine on an NVIDIA GPU: one optimisation profile a bucket of shapes.

An engine runs with the TensorRT release and on the kind of GPU that it was built with: both are stamped into its
``export.json`` and checked before it is loaded.
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
    """The largest shape of one optimisation profile; batches are filled into the smallest that holds them."""

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
    """Return the standard buckets up to a spec's longest input, and one for that length."""
    longest = Bucket(32, max_tokens)
    return [b for b in BUCKETS if b.tokens <= max_tokens and b != longest] + [longest]


def choose_bucket(buckets: Sequence[Bucket], batch: int, tokens: int) -> int:
    """Return the position of the bucket that runs a batch with the least computed in vain.

    Where none has enough rows, the one that needs the fewest runs; its caller splits the batch.

    Raises
    ------
    CareError
        The texts are longer than every bucket.
    """
    fitting = [i for i, bucket in enumerate(buckets) if bucket.tokens >= tokens]
    if not fitting:
        raise CareError(
            f"a text of {tokens} tokens; the engine was built for {max(b.tokens for b in buckets)}: export anew"
        )
    runs = {i: -(-batch // buckets[i].batch) for i in fitting}
    return min(fitting, key=lambda i: (runs[i], buckets[i].batch * buckets[i].tokens))


def import_tensorrt() -> Any:
    """Import the package, or say how to get it.

    Raises
    ------
    CareError
        It is not installed.
    """
    try:
        import tensorrt
    except ImportError:
        raise CareError(
            "tensorrt is not installed: pip install 'care-accel[tensorrt]' on a machine with an NVIDIA GPU"
        ) from None
    return tensorrt


def stamp(tensorrt: Any) -> dict[str, str]:
    """Return what an engine depends on: TensorRT's release and the GPU's name."""
    import torch

    return {"tensorrt": str(tensorrt.__version__), "gpu": torch.cuda.get_device_name()}


def stamp_mismatch(recorded: Mapping[str, Any], here: Mapping[str, str]) -> str | None:
    """Say how an engine's stamp differs from what is here, both sides named; None if it does not."""
    words = {"tensorrt": "TensorRT", "gpu": "GPU"}
    for name, word in words.items():
        if recorded.get(name) != here[name]:
            return f"its engine was built with {word} {recorded.get(name)}, here is {word} {here[name]}"
    return None


class TensorRTRuntime:
    """Runs an engine that `care_accel.export` built.

    Parameters
    ----------
    file : Path
        ``model.engine``.
    buckets : sequence of Bucket
        Of the engine's profiles, in their order.
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
                raise CareError(f"{file}: TensorRT {trt.__version__} cannot load it; export the model anew")
            # One a profile, so that a change of shape never waits for a change of profile.
            self._contexts = [self._context(i) for i in range(len(self._buckets))]

    def _context(self, profile: int) -> Any:
        context = self._engine.create_execution_context()
        if context is None or not context.set_optimization_profile_async(profile, self._stream.cuda_stream):
            raise CareError(f"TensorRT gives no execution context for profile {profile}; is GPU memory left?")
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
            return vectors.cpu().numpy()  # which waits for the stream
