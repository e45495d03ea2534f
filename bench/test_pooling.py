"""Hidden states to vectors: the fused kernel beside the same in plain PyTorch, eagerly and through torch.compile.

On a GPU the limit is one pass over the states of all tokens that pooling needs at the bandwidth of a copy, measured in
the same run; a round is several calls in a row. "In a CUDA graph" is what remains of them without their launches.
Without a GPU the choice is plain PyTorch, and the suite shows what torch.compile would win over it.
"""

from __future__ import annotations

import functools

import pytest

torch = pytest.importorskip("torch")

from care_accel.kernels import embed, pool, project  # noqa: E402

ON_GPU = torch.cuda.is_available()
needs_gpu = pytest.mark.skipif(not ON_GPU, reason="needs a GPU")
ORDER = "normalize-then-slice"
WIDTH = 768

# batch, tokens, hidden size; float32 on the CPU, bfloat16 on a GPU
CPU_CASES = {
    "smoke": [(4, 16, 64)],
    "default": [(1, 16, 768), (64, 64, 768)],
    "full": [(1, 16, 768), (64, 64, 768), (512, 64, 768)],
}
GPU_CASES = {
    "smoke": [(4, 16, 64)],
    "default": [(1, 16, 768), (1024, 128, 768)],
    "full": [
        (1, 16, 768),
        (32, 16, 768),
        (32, 512, 768),
        (1024, 128, 768),
        (4096, 64, 768),
        (256, 512, 4096),
    ],
}
POOLINGS = {"smoke": ["mean"], "default": ["first", "last", "mean"], "full": ["first", "last", "mean"]}
IN_A_ROW = {"cpu": 1, "cuda": 20}


def plain(hidden, mask, pooling, order, width):
    return project(pool(hidden, mask, pooling), width, order)


def compiled(device):
    torch.compiler.reset()  # every case has its own compilation, for its own shapes
    return torch.compile(plain, dynamic=False)


def in_a_graph(function):
    """Return the function with its launches recorded once for its first arguments."""
    recorded = []

    def call(*arguments):
        if not recorded:
            for _ in range(3):
                function(*arguments)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                out = function(*arguments)
            recorded.append((graph, out))
        graph, out = recorded[0]
        graph.replay()
        return out

    return call


ENGINES = {
    "care_accel": lambda device: embed,
    "PyTorch eager": lambda device: plain,
    "torch.compile": compiled,
}
GRAPHED = {
    "care_accel, in a CUDA graph": lambda device: in_a_graph(embed),
    "PyTorch eager, in a CUDA graph": lambda device: in_a_graph(plain),
}


def pytest_generate_tests(metafunc):
    size = metafunc.config.getoption("--bench-size")
    gpu = metafunc.function is test_pooling_on_a_gpu
    cases = (GPU_CASES if gpu else CPU_CASES)[size]
    metafunc.parametrize("case", cases, ids=lambda c: "x".join(map(str, c)))
    metafunc.parametrize("pooling", POOLINGS[size])
    metafunc.parametrize("engine", [*ENGINES, *GRAPHED] if gpu else ["PyTorch eager", "torch.compile"])


@functools.lru_cache(maxsize=1)
def inputs(case, device):
    batch, tokens, size = case
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    hidden = torch.randn(batch, tokens, size, device=device, dtype=dtype)
    return hidden, torch.ones(batch, tokens, dtype=torch.int64, device=device)


def run(benchmark, engine, case, pooling, device):
    hidden, mask = inputs(case, device)
    width, calls = min(WIDTH, case[2]), IN_A_ROW[device]
    function = (ENGINES | GRAPHED)[engine](device)
    benchmark.group = f"{device}: {pooling} of {'x'.join(map(str, case))}, {calls} in a row"
    benchmark.extra_info |= {"name": engine, "ours": engine == ("care_accel" if ON_GPU else "PyTorch eager")}

    def several():
        for _ in range(calls):
            found = function(hidden, mask, pooling, ORDER, width)
        if device == "cuda":
            torch.cuda.synchronize()
        return found

    with torch.inference_mode():
        found = benchmark.pedantic(several, rounds=30, warmup_rounds=3)
        expected = plain(hidden.double(), mask, pooling, ORDER, width)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    return hidden, mask, found, calls


def test_pooling(benchmark, engine, case, pooling):
    run(benchmark, engine, case, pooling, "cpu")


@needs_gpu
def test_pooling_on_a_gpu(benchmark, engine, case, pooling, gpu_copy_bandwidth):
    hidden, mask, found, calls = run(benchmark, engine, case, pooling, "cuda")
    states = hidden.nbytes if pooling == "mean" else hidden[:, 0].nbytes
    moved = states + mask.nbytes + found.nbytes
    if moved > 2**27:  # less stays in the cache, where another limit holds
        benchmark.extra_info["share_of_limit_copy"] = calls * moved / gpu_copy_bandwidth
