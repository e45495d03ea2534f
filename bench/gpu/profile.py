"""Where the time of networks goes on a GPU: kernels by kind, from torch's profiler, as a table and as JSON.

Queries of the paper's query network (gte, 305M) as CUDA graphs replay them, plain and with compiled layers, and a pack of documents of its
document network (qwen3, 4B), plain and with compiled layers. What norms, activations and rotations take of it is what kernels of
this project could save. ``--size smoke`` profiles small networks, on the CPU where there is no GPU.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
import numpy as np  # noqa: E402

from care_accel.files import write_json  # noqa: E402

RUNS = 10
# What kernels of this project could fuse further, and the share of a run from which they are worth writing.
FUSED = "norms, activations, rotations, sums"
WORTH_WRITING = 0.10
# The first that matches the name of a kernel, or of an operation on the CPU.
KINDS = (
    ("attention", r"flash|fmha|attention|sdpa"),
    ("matrix products", r"gemm|cutlass|cublas|nvjet|xmma|wgmma|_mm\b|mkldnn|::mm|addmm|matmul|linear"),
    ("pooling and normalising of this package", r"care_accel|_embed|pool_"),
    ("copies", r"memcpy|memset|copy_"),
    (FUSED, r".*"),
)
TOKENS, DOCUMENTS, DOCUMENT_TOKENS = 16, 54, 300


def kind_of(name: str) -> str:
    """Return the kind of a kernel by its name."""
    return next(kind for kind, pattern in KINDS if re.search(pattern, name, re.IGNORECASE))


def fused_kernels(kinds: Mapping[str, float]) -> dict[str, Any]:
    """Return the most that kernels of this project could win: all the time of what they would compute.

    Parameters
    ----------
    kinds : mapping of str to float
        Time by kind.

    Returns
    -------
    dict
        ``win_at_most``, a share of the time of all kernels, and whether it is `WORTH_WRITING`.
    """
    total = sum(kinds.values())
    share = kinds.get(FUSED, 0.0) / total if total > 0 else 0.0
    return {"win_at_most": round(share, 4), "worth_writing": share > WORTH_WRITING}


def profile(work: Callable[[], Any], on_gpu: bool) -> dict[str, Any]:
    """Return the microseconds of a run by kind, and the kernels that take most."""
    import torch
    from torch.profiler import ProfilerActivity

    for _ in range(3):
        work()
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity]) as found:
        for _ in range(RUNS):
            work()
        if on_gpu:
            torch.cuda.synchronize()
    kinds: dict[str, float] = defaultdict(float)
    kernels: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    for event in found.key_averages():
        time = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if time > 0:
            kinds[kind_of(event.key)] += time / RUNS
            kernels[event.key][0] += event.count / RUNS
            kernels[event.key][1] += time / RUNS
    largest = sorted(kernels.items(), key=lambda one: -one[1][1])[:15]
    return {
        "us": round(sum(kinds.values()), 1),
        "kernels": round(sum(count for count, _ in kernels.values())),
        "kinds_us": {kind: round(us, 1) for kind, us in sorted(kinds.items(), key=lambda one: -one[1])},
        "fused_kernels": fused_kernels(kinds),
        "largest_us": {name[:160]: round(us, 1) for name, (_, us) in largest},
    }


def cases(size: str, device: str) -> dict[str, Callable[[], Callable[[], Any]]]:
    """Return what is profiled by name: a function that prepares it and returns the work."""
    import torch

    from bench.gpu import test_gpu_documents as documents
    from bench.gpu.test_gpu_encoder import NETWORKS
    from care_accel.encoding import EncoderSpec
    from care_accel.encoding.runtimes.pytorch import PyTorchRuntime

    small = size == "smoke"

    def runtime_of(name: str, pooling: Any, compiled: bool, graphs: bool) -> PyTorchRuntime:
        import transformers

        model_type, values = NETWORKS[name]
        torch.manual_seed(0)
        with torch.device(device):
            config = transformers.CONFIG_MAPPING[model_type](**values)
            dtype = torch.bfloat16 if device == "cuda" else torch.float32
            network = transformers.AutoModel.from_config(config, dtype=dtype).eval()
        spec = EncoderSpec(
            pooling=pooling, order="normalize-then-slice", width=256, device=device,
            dtype="bfloat16" if device == "cuda" else "float32", max_tokens=TOKENS if graphs else documents.MOST,
        )  # fmt: skip
        return PyTorchRuntime(network, spec, graphs=graphs, compiled=compiled)

    def queries(count: int, compiled: bool) -> Callable[[], Any]:
        runtime = runtime_of("gte, small" if small else "gte, 305M", "first", compiled, True)
        ids = np.random.default_rng(0).integers(5, 900, (count, TOKENS))
        return lambda: runtime(ids, np.ones_like(ids))

    def pack(compiled: bool) -> Callable[[], Any]:
        runtime = runtime_of("qwen3, small" if small else "qwen3, 4B", "last", compiled, False)
        count, tokens = (2, 40) if small else (DOCUMENTS, DOCUMENT_TOKENS)
        rows = np.random.default_rng(0).integers(5, 900, (count, tokens)).tolist()
        return lambda: runtime.encode_rows(rows)

    found: dict[str, Callable[[], Callable[[], Any]]] = {}
    for compiled in (False, True):
        words = ", compiled layers" if compiled else ""
        for count in (1, 32):
            found[f"gte, {count} x {TOKENS} tokens{words}"] = lambda c=count, w=compiled: queries(c, w)
        found[f"qwen3, a pack of documents{words}"] = lambda w=compiled: pack(w)
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-check" / "profile.json")
    parser.add_argument("--size", choices=("smoke", "full"), default="full")
    options = parser.parse_args(arguments)
    import torch

    on_gpu = torch.cuda.is_available()
    if not on_gpu and options.size != "smoke":
        print("bench.gpu.profile: PyTorch finds no GPU; --size smoke runs without one", file=sys.stderr)
        return 2
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    for name, prepare in cases(options.size, "cuda" if on_gpu else "cpu").items():
        try:
            with torch.inference_mode():
                results[name] = profile(prepare(), on_gpu)
        except (
            RuntimeError,
            KeyError,
        ) as error:  # out of memory, or a release of transformers without the network
            results[name] = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
        if on_gpu:
            torch.cuda.empty_cache()
        # Written after every case, so that an interrupted run keeps its results.
        write_json(options.out, {"runs": RUNS, "on": "GPU" if on_gpu else "CPU", "profiles": results})
        found = results[name]
        print(
            f"{name}: {found.get('failed') or str(found['us']) + ' us, ' + str(found['kernels']) + ' kernels'}",
            flush=True,
        )
        for kind, us in found.get("kinds_us", {}).items():
            print(f"    {us:10.1f} us  {us / found['us']:4.0%}  {kind}", flush=True)
        if fused := found.get("fused_kernels"):
            verdict = "worth writing" if fused["worth_writing"] else "not worth writing"
            print(
                f"    kernels for {FUSED} could win {fused['win_at_most']:.0%} at most: {verdict}", flush=True
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
