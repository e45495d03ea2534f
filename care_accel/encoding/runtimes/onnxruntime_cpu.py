"""Runs an exported ONNX graph with ONNX Runtime on the CPU, in float32.

The graph includes pooling, slicing and normalising; its output is the embeddings. ONNX Runtime's dynamic int8 is not
offered: it uses one scale per activation tensor, so an embedding would depend on the other texts in the batch.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from care_accel.errors import CareError

GRAPH = "model.onnx"
INPUTS = ("input_ids", "attention_mask")
OUTPUT = "vectors"


class OnnxRuntime:
    """Runs a graph that `care_accel.export` wrote.

    Parameters
    ----------
    file : Path
        ``model.onnx``; external weights are in the same folder.
    threads : int, optional
        Threads per call; by default as many as the process may use.

    Raises
    ------
    CareError
        The graph cannot be read or was not written by `care_accel.export`, or onnxruntime is not installed.
    """

    device = "cpu"

    def __init__(self, file: Path, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise CareError("onnxruntime is not installed: pip install 'care-accel[onnx]'") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as cause:  # the library has many exception types
            raise CareError(
                f"{file}: ONNX Runtime {onnxruntime.__version__} cannot read it: {' '.join(str(cause).split())[:300]}"
            ) from None
        names = tuple(i.name for i in self._session.get_inputs()), self._session.get_outputs()[0].name
        if names != (INPUTS, OUTPUT):
            raise CareError(
                f"{file}: not written by care-accel export, whose output is {OUTPUT!r}; export the model again"
            )

    def __call__(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Encode one padded batch, ``[batch, tokens]`` each, to float32 ``[batch, width]``."""
        (vectors,) = self._session.run([OUTPUT], dict(zip(INPUTS, (ids, mask), strict=True)))
        return vectors
