"""Exact top-k search on a GPU beside torch's matrix product and selection, everything in the GPU's memory.

float16 is what one would use instead, and is not exact; int8 (`torch._int_mm`) is for information. The limit: one read
of all codes at the read bandwidth, which is measured in the same run. A round is several searches in a row, so that
it measures the GPU and not how fast the processor hands it work.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

from care_accel import ExactIndex, _native

torch = pytest.importorskip("torch", reason="the peer torch is not installed")
pytestmark = pytest.mark.skipif(
    not (_native.CUDA and torch.cuda.is_available()), reason="needs a GPU and a build with CARE_CUDA=ON"
)

# vectors, width, queries at a time
CASES = {
    "smoke": [(20_000, 256, 1)],
    "default": [(200_000, 768, queries) for queries in (1, 32, 256)],
    "full": [(1_000_000, 768, queries) for queries in (1, 8, 32, 256)],
}
K = 10
IN_A_ROW = 10


def unit_vectors(seed, rows, width):
    vectors = np.random.default_rng(seed).standard_normal((rows, width), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@functools.cache
def read_bandwidth():
    """Return the bytes a second that the GPU reads: the best of several sums over 4 GB."""
    values = torch.ones(2**30, dtype=torch.float32, device="cuda")
    best = 0.0
    for _ in range(7):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        values.sum()
        end.record()
        end.synchronize()
        best = max(best, values.nbytes / (1e-3 * begin.elapsed_time(end)))
    return best


@functools.lru_cache(maxsize=1)
def index_of(rows, width):
    index = ExactIndex(width, device="cuda")
    index.add(unit_vectors(0, rows, width))
    return index


def on_the_cpu(index):
    """Return the same index without its GPU: vectors and codes are shared."""
    other = ExactIndex(index.width)
    other._stored, other._count, other._codes = index._stored, index._count, index._codes
    return other


def ours(index):
    return lambda queries: index.search_on_device(queries, k=K)[1]


def float16(index):
    stored = torch.from_numpy(index.vectors).cuda().half()
    return lambda queries: torch.topk(queries.half() @ stored.T, K).indices


def int8(index):
    stored = (torch.from_numpy(index.vectors).cuda() * 127 / index.vectors.max()).to(torch.int8).T

    def search(queries):
        codes = (queries * 127 / queries.abs().max()).to(torch.int8)
        padded = torch.nn.functional.pad(codes, (0, 0, 0, max(0, 32 - len(codes))))  # what _int_mm takes
        return torch.topk(torch._int_mm(padded, stored)[: len(codes)].float(), K).indices

    return search


ENGINES = {"care_accel": ours, "torch float16 (not exact)": float16, "torch int8 (not exact)": int8}


def pytest_generate_tests(metafunc):
    metafunc.parametrize(
        "case", CASES[metafunc.config.getoption("--bench-size")], ids=lambda c: "x".join(map(str, c))
    )
    metafunc.parametrize("engine", ENGINES)


def test_search_on_a_gpu(benchmark, engine, case):
    rows, width, count = case
    index = index_of(rows, width)
    search = ENGINES[engine](index)
    queries = torch.from_numpy(unit_vectors(1, count, width)).cuda()
    benchmark.group = (
        f"GPU: top {K} of {rows:,} x {width}, {count} queries at a time, {IN_A_ROW} searches in a row"
    )
    benchmark.extra_info |= {"name": engine, "ours": engine == "care_accel"}
    if engine == "care_accel":
        benchmark.extra_info["share_of_limit_bytes"] = IN_A_ROW * rows * width / read_bandwidth()

    def several():
        for _ in range(IN_A_ROW):
            found = search(queries)
        torch.cuda.synchronize()
        return found

    found = benchmark.pedantic(several, rounds=30, warmup_rounds=3).cpu().numpy()
    if engine == "care_accel":
        _, expected = on_the_cpu(index).search(queries.cpu().numpy(), k=K)
        np.testing.assert_array_equal(found, expected)
