"""Peers on a GPU that are measured where they are installed, each by the few calls that its users write."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from care_accel.encoding import EncoderSpec


def faiss_flat(vectors: NDArray[np.float32], k: int) -> Callable[[Any], Any]:
    """Return a search of faiss's flat index on the GPU; queries and hits pass the host."""
    import torch

    faiss = pytest.importorskip("faiss", reason="the peer faiss is not installed")
    if not hasattr(faiss, "StandardGpuResources"):
        pytest.skip("this build of faiss has no GPU parts")
    index = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), vectors.shape[1])
    index.add(vectors)
    return lambda queries: torch.from_numpy(index.search(queries.cpu().numpy(), k)[1])


def cuvs_brute_force(stored: Any, k: int) -> Callable[[Any], Any]:
    """Return a search of cuVS's brute force over a float32 tensor; queries and hits stay on its device."""
    import torch

    library = pytest.importorskip("cuvs.neighbors.brute_force", reason="the peer cuVS is not installed")
    index = library.build(stored, metric="inner_product")
    return lambda queries: torch.as_tensor(library.search(index, queries, k)[1], device=stored.device).long()


def onnxruntime(
    network: Any, spec: EncoderSpec, provider: str, dtype: str
) -> Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]:
    """Return an encoder by ONNX Runtime, from ids to vectors on the host: the graph that `care_accel.export` writes.

    Parameters
    ----------
    network : transformers.PreTrainedModel
        Left as it is.
    spec : EncoderSpec
    provider : str
        Such as ``"CUDAExecutionProvider"``.
    dtype : str
        Of the weights in the graph, ``"float16"`` or ``"float32"``.
    """
    import torch

    library = pytest.importorskip("onnxruntime", reason="the peer onnxruntime is not installed (extra onnx)")
    if provider not in library.get_available_providers():
        pytest.skip(f"this build of ONNX Runtime has no {provider}")
    if find_spec("onnxscript") is None:
        pytest.skip("onnx is not installed (extra onnx)")
    from care_accel.encoding.runtimes.onnxruntime_cpu import INPUTS, OUTPUT
    from care_accel.export.graph import write_graph

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        write_graph(copy.deepcopy(network).to("cpu", getattr(torch, dtype)), spec, file)
        session = library.InferenceSession(str(file), providers=[provider])
    if session.get_providers()[0] != provider:
        pytest.skip(f"ONNX Runtime could not load its {provider}")

    def encode(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        (vectors,) = session.run([OUTPUT], dict(zip(INPUTS, (ids, mask), strict=True)))
        return vectors

    return encode
