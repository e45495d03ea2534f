"""Python backend model of the exact scan: EMBEDDING to IDS, SCORES and DOCUMENTS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from care_accel.errors import CareError
from care_accel.serving.backend.hits import Filter, HitFinder
from care_accel.serving.backend.live_index import LiveIndex
from care_accel.serving.backend.open_collection import OpenCollection
from care_accel.serving.backend.open_index import OpenIndex, on_cpu
from care_accel.serving.backend.requests import respond
from care_accel.serving.backend.tensors import Backend, array, read_texts, required


class _ValidRequest(NamedTuple):
    """A validated request."""

    vectors: Any
    ks: list[int]
    texts: list[str]
    times: NDArray[np.float32]
    filters: Sequence[Filter | None] | None


class ScanModel:
    """Python backend model ``scan``; batched requests are searched together.

    Parameters in the configuration, as JSON: those of `LiveIndex` and `HitFinder`, ``queue`` and ``wait`` (see
    `Backlog`).
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Load the index; fails for one of another document encoder."""
        self.backend = Backend(args)
        self._backlog = self.backend.backlog()
        self._finder = HitFinder(self.backend)
        self._live = LiveIndex(self.backend)
        self.backend.at_end(self._live.end)

    def finalize(self) -> None:
        """Stop the reload thread and report the last metrics."""
        self.backend.end()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Return hits or an error for each request."""
        return self._live.answer(
            len(requests),
            lambda index: respond(  # one index for the whole batch, even if it is reloaded meanwhile
                self.backend,
                self._backlog,
                requests,
                lambda request: self._read(request, index),
                lambda asked: self._answers(asked, index),
            ),
        )

    def _read(self, request: Any, index: OpenIndex | OpenCollection) -> _ValidRequest:
        inputs = self.backend.inputs(request)
        vectors = as_array(required(inputs, "EMBEDDING"))
        finite = (
            np.isfinite(vectors).all(axis=1)
            if on_cpu(vectors)
            else np.asarray(vectors.isfinite().all(1).cpu())
        )
        if not finite.all():
            raise CareError(f"EMBEDDING {int(np.argmin(finite))} has a value that is not finite")
        ks = self._finder.read_ks(inputs, len(vectors))
        texts: list[str] = []
        if index.needs_texts:
            if "TEXT" not in inputs:
                raise CareError("this index is hybrid (vectors and BM25) and needs TEXT as well")
            texts = read_texts(array(inputs, "TEXT"), empty=False)
        times = array(inputs, "ENCODE_TIMES")
        if times is None:
            times = np.zeros((len(vectors), 2), np.float32)
        filters = self._finder.read_filters(inputs, index, len(vectors))
        return _ValidRequest(vectors, ks, texts, times, filters)

    def _answers(self, asked: Sequence[_ValidRequest], index: OpenIndex | OpenCollection) -> list[Any]:
        hits, scan = self._finder.find(
            index,
            concatenate([one.vectors for one in asked]),
            [one.ks for one in asked],
            [text for one in asked for text in one.texts] or None,
            [one.filters for one in asked],
        )
        return [
            self.backend.answer(
                **outputs, TIMES=np.hstack([one.times, np.full((len(one.times), 1), scan, np.float32)])
            )
            for one, outputs in zip(asked, hits, strict=True)
        ]


def as_array(tensor: Any) -> Any:
    """Return the server's tensor as an array in host memory, or as one of torch on the GPU where it is."""
    if tensor.is_cpu():
        return tensor.as_numpy()
    import torch

    return torch.from_dlpack(tensor.to_dlpack())


def concatenate(parts: Sequence[Any]) -> Any:
    """Concatenate the vectors of several requests, on the GPU if any are there."""
    on_gpu = next((part for part in parts if not on_cpu(part)), None)
    if on_gpu is None:
        return np.concatenate(parts)
    import torch

    return torch.cat([torch.as_tensor(part, device=on_gpu.device) for part in parts])
