"""Builds a TensorRT engine from an ONNX graph, with one optimisation profile per bucket."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from care_accel.encoding.runtimes.onnxruntime_cpu import INPUTS
from care_accel.encoding.runtimes.tensorrt_engine import Bucket, import_tensorrt
from care_accel.errors import CareError

TIMING_CACHE = "timing.cache"


def build_engine(
    graph: Path, engine: Path, buckets: Sequence[Bucket], *, half: bool, timings: bytes = b""
) -> bytes:
    """Build an engine for the GPU of this machine.

    Parameters
    ----------
    graph : Path
        ONNX graph written by `write_graph`.
    engine : Path
        Output file.
    buckets : sequence of Bucket
        One profile each, in this order: accepts any shape up to the bucket's, optimised for the bucket's own.
    half : bool
        Allow float16 where TensorRT finds it faster.
    timings : bytes
        Timing cache of an earlier build, so that kernels need not be timed again; ignored if from another GPU.

    Returns
    -------
    bytes
        The timing cache after this build.

    Raises
    ------
    CareError
        tensorrt is not installed, cannot read the graph, or builds no engine; the message includes TensorRT's.
    """
    trt = import_tensorrt()
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        errors = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise CareError(f"TensorRT {trt.__version__} cannot read the graph: {' '.join(errors.split())[:300]}")
    config = builder.create_builder_config()
    if half:
        config.set_flag(trt.BuilderFlag.FP16)
    for bucket in buckets:
        profile = builder.create_optimization_profile()
        for name in INPUTS:
            profile.set_shape(name, (1, 1), tuple(bucket), tuple(bucket))
        if config.add_optimization_profile(profile) < 0:
            raise CareError(
                f"TensorRT {trt.__version__} rejects the profile of {bucket.batch} x {bucket.tokens}"
            )
    if not config.set_timing_cache(config.create_timing_cache(timings), False):
        config.set_timing_cache(config.create_timing_cache(b""), False)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise CareError(f"TensorRT {trt.__version__} built no engine; check for free GPU memory")
    engine.write_bytes(built)
    return bytes(config.get_timing_cache().serialize())
