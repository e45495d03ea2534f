"""A network as CUDA graphs, one a bucket of shapes: a few hundred launches become one.

A small batch through a small network is bound by how fast the processor hands kernels to the GPU; a graph hands them
over at once. A batch is padded to the next bucket, copied into buffers that the graphs read, and replayed.

Cost: at load, four runs of the network for each bucket. Memory: the activations of the largest bucket, which all
graphs share as they never run at the same time, and what the driver keeps of each graph; `CudaGraphs.memory` is what
was measured at load. Batches beyond the buckets have enough work to be bound by the GPU, and run eagerly.
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
# Texts times tokens of the largest bucket. gte's 113M parameters in the layers make 1 TFLOP of 4,096 tokens, which
# takes a GPU about as long as the launches take the processor.
TOKENS_A_BATCH = 4096
_WARM_UP_RUNS = 3

log = logging.getLogger(__name__)


@dataclass
class GraphCounts:
    """What a runtime's batches became.

    Attributes
    ----------
    replayed, eager : int
        Batches that a graph ran, and that were beyond the buckets.
    bucket_padding : int
        Tokens computed only to fill buckets, beside the padding within the batches (see `EncodeCounts`).
    """

    replayed: int = 0
    eager: int = 0
    bucket_padding: int = 0


def buckets_up_to(max_tokens: int) -> list[tuple[int, int]]:
    """Return the (batch, tokens) buckets of texts of at most so many tokens, the largest first."""
    longest = TOKENS[min(bisect_left(TOKENS, max_tokens), len(TOKENS) - 1)]
    buckets = [(b, t) for b in BATCHES for t in TOKENS if t <= longest and b * t <= TOKENS_A_BATCH]
    return sorted(buckets, key=lambda bucket: (-bucket[0] * bucket[1], bucket))


class CudaGraphs:
    """Runs batches that fit a bucket by replaying its graph; safe to call from several threads.

    Parameters
    ----------
    forward : callable
        (ids, mask), int64 ``[batch, tokens]`` on the device, to float32 ``[batch, width]`` there. It must not look at
        values on the host while it is captured.
    device : str
    buckets : list of (int, int)
        Batch and tokens; the largest first, so that the others fit its memory.
    capture : callable, optional
        What makes a graph of a forward; CUDA graphs with one pool of memory by default.

    Attributes
    ----------
    memory : int
        Bytes of the device that capturing took.
    failure : str or None
        Why capturing was given up; then no bucket is there and every batch runs eagerly.
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
        # Ids and mask lie one behind the other: one copy a batch. All buckets are views of the same memory.
        self._host = torch.zeros(values, dtype=torch.int64, pin_memory=on_gpu)
        self._input = torch.zeros(values, dtype=torch.int64, device=device)
        self._lock = threading.Lock()
        self._replays: dict[tuple[int, int], Replay] = {}
        self.failure: str | None = None
        before = _used(device) if on_gpu else 0
        try:
            with torch.inference_mode():
                capture = capture or cuda_capture(device)
                for bucket in buckets:
                    ids, mask = self._view(self._input, bucket)
                    # With padding, so that what is warmed up is the masked attention that is captured.
                    mask.fill_(1)[:, 1:][:, -1:] = 0
                    self._replays[bucket] = capture(forward, ids, mask)
        except RuntimeError as cause:  # out of memory, or an operation that cannot be captured
            self._replays = {}
            self.failure = " ".join(str(cause).split())[:300]
            log.warning("no CUDA graphs, every batch runs eagerly: %s", self.failure)
        self.memory = max(0, _used(device) - before) if on_gpu else 0

    @property
    def buckets(self) -> list[tuple[int, int]]:
        """The captured (batch, tokens) buckets, smallest first."""
        return sorted(self._replays, key=lambda bucket: (bucket[0] * bucket[1], bucket))

    def bucket_for(self, batch: int, tokens: int) -> tuple[int, int] | None:
        """Return the bucket with the least padding that a batch fits, or None."""
        return next((b for b in self.buckets if batch <= b[0] and tokens <= b[1]), None)

    def run(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64], bucket: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Encode one batch in a bucket that it fits, ``[batch, tokens]`` each, to float32 ``[batch, width]``."""
        with self._lock, torch.inference_mode():
            # The copy to the host waits for the replay, so the buffers are free again when the lock is.
            return self._replay(ids, mask, bucket).cpu().numpy()

    def run_on_device(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64], bucket: tuple[int, int]
    ) -> torch.Tensor:
        """Encode one batch as `run` does, to a tensor that stays on the device."""
        with self._lock, torch.inference_mode():
            vectors = self._replay(ids, mask, bucket).clone()  # the next replay writes over its own
            if vectors.is_cuda:
                torch.cuda.current_stream(vectors.device).synchronize()  # until then the buffers are read
            return vectors

    def _replay(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64], bucket: tuple[int, int]
    ) -> torch.Tensor:
        rows, tokens = ids.shape
        filled_ids, filled_mask = self._view(self._host, bucket)
        filled_ids.zero_()
        filled_mask.zero_()
        # On the right whichever side the batch is padded on: no token changes its position.
        filled_ids[:rows, :tokens] = torch.from_numpy(ids)
        filled_mask[:rows, :tokens] = torch.from_numpy(mask)
        # A row without a single token would attend to nothing: NaN, and slower paths in some kernels.
        filled_mask[rows:, 0] = 1
        count = 2 * bucket[0] * bucket[1]
        self._input[:count].copy_(self._host[:count], non_blocking=True)
        return self._replays[bucket]()[:rows]

    @staticmethod
    def _view(memory: torch.Tensor, bucket: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        ids, mask = memory[: 2 * bucket[0] * bucket[1]].view(2, *bucket)
        return ids, mask


def cuda_capture(device: str) -> Capture:
    """Return what captures forwards as CUDA graphs that share one pool of memory."""
    pool = torch.cuda.graph_pool_handle()

    def capture(forward: Forward, ids: torch.Tensor, mask: torch.Tensor) -> Replay:
        with torch.cuda.device(device):
            # Libraries set themselves up, and kernels are compiled and chosen, in runs that are not captured; on
            # another stream, as PyTorch asks for.
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP_RUNS):
                    forward(ids, mask)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # Other threads may go on using the GPU meanwhile.
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                vectors = forward(ids, mask)

        def replay() -> torch.Tensor:
            with torch.cuda.device(device):
                graph.replay()
            return vectors

        return replay

    return capture


def _used(device: str) -> int:
    free, total = torch.cuda.mem_get_info(device)
    return total - free
