"""Peak rates of the machine, measured repeatedly while the suites run, because other load on it changes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cache
from time import perf_counter
from typing import Any

import numpy as np

from bench.harness.machine import last_level_cache

_PASSES = 3


@cache
def _values() -> Any:
    """Return 256 MB of values, or twice the last-level cache if that is larger."""
    import torch

    return torch.ones(max(64 * 2**20, 2 * last_level_cache() // 4))


def _read_bandwidth() -> float:
    """Return the read bandwidth of all threads, bytes per second: torch's sum is the fastest reader tried."""
    values = _values()
    return _best(values.sum, values.nbytes)


@cache
def _matrices(dtype: str, size: int) -> Any:
    import torch

    if dtype == "int8":
        return tuple(torch.randint(-128, 127, (size, size), dtype=torch.int8) for _ in range(2))
    return tuple(torch.randn(size, size) for _ in range(2))


def _int8_rate() -> float:
    """Return int8 products per second of torch's matrix product (oneDNN)."""
    import torch

    a, b = _matrices("int8", 2048)
    return _best(lambda: torch._int_mm(a, b), 2048**3)


def _float32_rate() -> float:
    """Return operations per second of the fastest installed float32 matrix product.

    torch reaches half of the peak of some processors; ONNX Runtime, where it is installed, reaches more.
    """
    a, b = _matrices("float32", 1024)
    session = _onnx_product(1024)
    rates = [_best(lambda: a @ b, 2 * 1024**3)]
    if session is not None:
        rates.append(_best(lambda: session.run(None, {"a": a.numpy()}), 2 * 1024**3))
    return max(rates)


@cache
def _onnx_product(size: int) -> Any:
    """Return a session of ONNX Runtime that multiplies by a constant matrix, None if it is not installed."""
    try:
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        return None
    shape = [size, size]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(_matrices("float32", size)[1].numpy(), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@cache
def _on_gpu(kind: str) -> Any:
    import torch

    if kind == "values":
        return torch.ones(2**30, dtype=torch.float32, device="cuda")
    if kind == "target":
        return torch.empty(2**29, dtype=torch.float32, device="cuda")
    if kind == "codes":
        return torch.randint(-128, 127, (8192, 8192), dtype=torch.int8, device="cuda")
    return torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")


def _gpu_read_bandwidth() -> float:
    """Return the GPU's read bandwidth, bytes per second: sums over 4 GB."""
    values = _on_gpu("values")
    return _best_on_gpu(values.sum, values.nbytes)


def _gpu_copy_bandwidth() -> float:
    """Return the GPU's copy bandwidth (reads and writes), bytes per second: copies of 2 GB."""
    values, target = _on_gpu("values")[: 2**29], _on_gpu("target")
    return _best_on_gpu(lambda: target.copy_(values), 2 * target.nbytes)


def _gpu_bfloat16_rate() -> float:
    """Return operations per second of a large bfloat16 matrix product on the GPU."""
    values = _on_gpu("matrix")
    return _best_on_gpu(lambda: values @ values, 2 * 8192**3)


def _gpu_int8_rate() -> float:
    """Return int8 products per second of a large matrix product on the GPU, as torch's library computes it."""
    import torch

    values = _on_gpu("codes")
    return _best_on_gpu(lambda: torch._int_mm(values, values.T), 8192**3)


def _best(work: Callable[[], Any], amount: float) -> float:
    best = 0.0
    for _ in range(_PASSES):
        started = perf_counter()
        work()
        best = max(best, amount / (perf_counter() - started))
    return best


def _best_on_gpu(work: Callable[[], Any], amount: float) -> float:
    import torch

    best = 0.0
    for _ in range(2 * _PASSES):  # the first ones warm up
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        best = max(best, amount / (1e-3 * begin.elapsed_time(end)))
    return best


PROBES: dict[str, tuple[str, Callable[[], float]]] = {
    "read bandwidth": ("bytes/s", _read_bandwidth),
    "int8 rate": ("products/s", _int8_rate),
    "float32 rate": ("operations/s", _float32_rate),
    "GPU read bandwidth": ("bytes/s", _gpu_read_bandwidth),
    "GPU copy bandwidth": ("bytes/s", _gpu_copy_bandwidth),
    "GPU bfloat16 rate": ("operations/s", _gpu_bfloat16_rate),
    "GPU int8 rate": ("products/s", _gpu_int8_rate),
}


class Limits:
    """The rates measured in a run.

    Parameters
    ----------
    once : bool
        Measure each rate only once: for a run whose times prove nothing.

    Attributes
    ----------
    samples : dict of str to list of float
    """

    def __init__(self, once: bool = False) -> None:
        self.samples: dict[str, list[float]] = defaultdict(list)
        self._once = once

    def sample(self, names: Iterable[str]) -> dict[str, float]:
        """Measure rates now and return them."""
        found = {}
        for name in names:
            if not (self._once and self.samples[name]):
                self.samples[name].append(PROBES[name][1]())
            found[name] = self.samples[name][-1]
        return found

    def summary(self) -> dict[str, dict[str, Any]]:
        """Return the median and the range of each rate over the run."""
        return {
            name: {
                "unit": PROBES[name][0],
                "median": float(np.median(rates)),
                "low": min(rates),
                "high": max(rates),
                "samples": len(rates),
            }
            for name, rates in self.samples.items()
        }
