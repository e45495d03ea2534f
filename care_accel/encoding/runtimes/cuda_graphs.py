"""A network as CUDA graphs, one per bucket of shapes: one graph launch replaces a few hundred kernel launches.

A small batch in a small network is bound by kernel launches on the CPU; a graph launches all kernels at once. A batch is
padded to the next bucket, copied into the graphs' static input buffers, and replayed.

Cost: at load, four runs of the network per bucket. Memory: the activations of the largest bucket, shared by all graphs
because they never run concurrently, plus the driver's memory per graph; `CudaGraphs.memory` is the amount measured at
load. Batches larger than every bucket are bound by the GPU and run without a graph.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Forward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Replay = Callable[[], torch.Tensor]
Capture = Callable[[Forward, torch.Tensor, torch.Tensor], Replay]

BATCHES = (1, 2, 4, 8, 16, 32, 64)
TOKENS = (16, 32, 64, 128, 256, 512)
# Maximum texts times tokens of a bucket. With gte's 113M parameters in the layers, 4,096 tokens are 1 TFLOP, which takes
# a GPU about as long as the kernel launches take the CPU.
MAX_BUCKET_TOKENS = 4096
_WARM_UP_RUNS = 3

log = logging.getLogger(__name__)


@dataclass
class GraphCounts:
    """Batch counters of a runtime.

    Attributes
    ----------
    replayed, packed, eager : int
        Batches run by a graph, packed without padding, and padded without a graph.
    bucket_padding : int
        Padding tokens added to fill buckets, not counting the padding within the batches (see `EncodeCounts`).
    """

    replayed: int = 0
    packed: int = 0
    eager: int = 0
    bucket_padding: int = 0


def buckets_up_to(max_tokens: int) -> list[tuple[int, int]]:
    """Return the (batch, tokens) buckets for texts of at most ``max_tokens``, largest first."""
    longest = TOKENS[min(bisect_left(TOKENS, max_tokens), len(TOKENS) - 1)]
    buckets = [(b, t) for b in BATCHES for t in TOKENS if t <= longest and b * t <= MAX_BUCKET_TOKENS]
    return sorted(buckets, key=lambda bucket: (-bucket[0] * bucket[1], bucket))


class CudaGraphs:
    """Runs batches by replaying the graph of the smallest bucket that fits; thread-safe.

    Parameters
    ----------
    forward : callable
        Maps (ids, mask), int64 ``[batch, tokens]`` on the device, to float32 ``[batch, width]`` on the device. It must
        not synchronise with the host during capture.
    device : str
    buckets : list of (int, int)
        Batch and tokens, largest first, so that the others reuse its memory.
    capture : callable, optional
        Captures a forward pass as a graph; by default as CUDA graphs that share one memory pool.

    Attributes
    ----------
    memory : int
        Device memory in bytes that capturing took.
    failure : str or None
        Why capturing failed; then there are no buckets and every batch runs eagerly.
    """

    def __init__(
        self,
        forward: Forward,
        device: str,
        buckets: list[tuple[int, int]],
        capture: Capture | None = None,
    ) -> None:
        on_gpu = torch.device(device).type == "cuda"
        values = 2 * max(batch * tokens for batch, tokens in buckets)
        # Ids and mask are contiguous, so that a batch takes one copy. All buckets are views of the same memory.
        self._host = torch.zeros(values, dtype=torch.int64, pin_memory=on_gpu)
        self._input = torch.zeros(values, dtype=torch.int64, device=device)
        self._lock = threading.Lock()
        self._replays: dict[tuple[int, int], Replay] = {}
        self.failure: str | None = None
        before = _used_memory(device) if on_gpu else 0
        try:
            with torch.inference_mode():
                capture = capture or cuda_capture(device)
                for bucket in buckets:
                    ids, mask = self._view(self._input, bucket)
                    # With padding, so that warm-up and capture use masked attention.
                    mask.fill_(1)[:, 1:][:, -1:] = 0
                    self._replays[bucket] = capture(forward, ids, mask)
        except RuntimeError as cause:  # out of memory, or an operation that cannot be captured
            self._replays = {}
            self.failure = " ".join(str(cause).split())[:300]
            log.warning("no CUDA graphs, every batch runs eagerly: %s", self.failure)
        self.memory = max(0, _used_memory(device) - before) if on_gpu else 0

    @property
    def buckets(self) -> list[tuple[int, int]]:
        """The captured (batch, tokens) buckets, smallest first."""
        return sorted(self._replays, key=lambda bucket: (bucket[0] * bucket[1], bucket))

    def bucket_for(self, batch: int, tokens: int) -> tuple[int, int] | None:
        """Return the smallest bucket that fits a batch, or None."""
        return next((b for b in self.buckets if batch <= b[0] and tokens <= b[1]), None)

    def run(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64], bucket: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Encode one batch, ``[batch, tokens]`` each, in a bucket that fits it, to float32 ``[batch, width]``."""
        with self._lock, torch.inference_mode():
            # The copy to the host waits for the replay, so the buffers are free when the lock is released.
            return self._replay(ids, mask, bucket).cpu().numpy()

    def run_on_device(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64], bucket: tuple[int, int]
    ) -> torch.Tensor:
        """Encode one batch as `run` does, and leave the result on the device."""
        with self._lock, torch.inference_mode():
            vectors = self._replay(ids, mask, bucket).clone()  # the next replay overwrites the graph's output
            if vectors.is_cuda:
                torch.cuda.current_stream(vectors.device).synchronize()  # the replay still reads the buffers
            return vectors

    def _replay(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64], bucket: tuple[int, int]
    ) -> torch.Tensor:
        rows, tokens = ids.shape
        padded_ids, padded_mask = self._view(self._host, bucket)
        padded_ids.zero_()
        padded_mask.zero_()
        # Bucket padding goes on the right, also for left-padded batches, so that no token changes its position.
        padded_ids[:rows, :tokens] = torch.from_numpy(ids)
        padded_mask[:rows, :tokens] = torch.from_numpy(mask)
        # A fully masked row would give NaN, and slower code paths in some kernels.
        padded_mask[rows:, 0] = 1
        count = 2 * bucket[0] * bucket[1]
        self._input[:count].copy_(self._host[:count], non_blocking=True)
        return self._replays[bucket]()[:rows]

    @staticmethod
    def _view(memory: torch.Tensor, bucket: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        ids, mask = memory[: 2 * bucket[0] * bucket[1]].view(2, *bucket)
        return ids, mask


def cuda_capture(device: str) -> Capture:
    """Return a function that captures forward passes as CUDA graphs with a shared memory pool."""
    pool = torch.cuda.graph_pool_handle()

    def capture(forward: Forward, ids: torch.Tensor, mask: torch.Tensor) -> Replay:
        with torch.cuda.device(device):
            # Warm-up runs initialise libraries and compile and autotune kernels before capture, on a side stream as
            # PyTorch requires.
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP_RUNS):
                    forward(ids, mask)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # "thread_local": other threads may use the GPU during capture.
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                vectors = forward(ids, mask)

        def replay() -> torch.Tensor:
            with torch.cuda.device(device):
                graph.replay()
            return vectors

        return replay

    return capture


def _used_memory(device: str) -> int:
    free, total = torch.cuda.mem_get_info(device)
    return total - free
