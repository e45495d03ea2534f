"""Writes an encoder as one ONNX graph from token ids to float32 embeddings."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from care_accel.encoding.runtimes.onnxruntime_cpu import INPUTS, OUTPUT
from care_accel.encoding.spec import EncoderSpec
from care_accel.errors import CareError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

    from care_accel.encoding.dense_layers import DenseLayers


# Larger weights go to an external file, because a protobuf message is limited to 2 GB.
_MAX_INLINE_BYTES = 1_500_000_000
_OPSET = 20


def write_graph(
    network: PreTrainedModel, spec: EncoderSpec, file: Path, dense: DenseLayers | None = None
) -> None:
    """Write a network with pooling, dense layers, slicing and normalising as an ONNX graph with dynamic batch size and length.

    Inputs ``input_ids`` and ``attention_mask``, int64 ``[batch, tokens]``; output ``vectors``, float32
    ``[batch, width]``. Weights are float32; large ones are stored in ``<file>.data``.

    Parameters
    ----------
    network : transformers.PreTrainedModel
        float32, in evaluation mode, on the CPU.
    spec : EncoderSpec
    file : Path
    dense : DenseLayers, optional
        The dense layers of the spec (`Checkpoint.load_dense`); needed if it has any.

    Raises
    ------
    CareError
        onnx or onnxscript is not installed, or the network cannot be exported to ONNX.
    """
    import torch

    from care_accel.encoding.last_layer import PooledNetwork

    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as missing:
        raise CareError(f"{missing.name} is not installed: pip install 'care-accel[onnx]'") from None
    # Batch 2: torch.export specialises dimensions of size 1.
    ids = torch.ones(2, 8, dtype=torch.int64)
    batch, tokens = torch.export.Dim("batch"), torch.export.Dim("tokens", max=max(8, spec.max_tokens))
    try:
        with _quiet(), torch.inference_mode():
            program = torch.onnx.export(
                PooledNetwork(network, spec, dense).eval(),
                (ids, torch.ones_like(ids)),
                input_names=INPUTS,
                output_names=[OUTPUT],
                dynamic_shapes=[{0: batch, 1: tokens}] * 2,
                opset_version=_OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as cause:  # the exporter, torch.export and the network each raise their own types
        raise CareError(
            f"this {network.config.model_type} network cannot be exported to ONNX: "
            f"{' '.join(str(cause).split())[:300]}"
        ) from cause
    assert program is not None
    size = sum(w.numel() * w.element_size() for w in network.parameters())
    program.save(file, external_data=size > _MAX_INLINE_BYTES)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's log messages and warnings."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
