"""How a search's time and memory grow: with vectors, width, k, queries at a time and threads, one at a time.

The report fits a straight line to each and says where it bends.
"""

from __future__ import annotations

import numpy as np
import pytest

from bench.scan.test_scan import gaussian, index_bytes, scanned_bytes
from care_accel import ExactIndex

# One parameter is varied at a time; the others have the middle values.
MIDDLE = {"vectors": 200_000, "width": 768, "k": 10, "queries": 1, "threads": 2}
VALUES = {
    "smoke": {"vectors": [500, 1_000], "threads": [1, 2]},
    "default": {
        "vectors": [10_000, 30_000, 100_000, 200_000, 300_000, 1_000_000],
        "width": [64, 128, 256, 512, 768],
        "k": [1, 10, 100, 1000],
        "queries": [1, 4, 16, 64, 256],
        "threads": [1, 2],
    },
    "full": {
        "vectors": [10_000, 30_000, 100_000, 200_000, 300_000, 1_000_000, 3_000_000],
        "width": [64, 128, 256, 512, 768, 1024, 2560],
        "k": [1, 3, 10, 30, 100, 300, 1000, 3000],
        "queries": [1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
        "threads": [1, 2],
    },
}
# Larger ones would not fit into memory together with their copy while they are built.
MAX_BYTES = 4 * 3_000_000 * 768
BATCHES = 16


def middle_of(size):
    return MIDDLE | ({"vectors": 1_000, "width": 64} if size == "smoke" else {})


def pytest_generate_tests(metafunc):
    size = metafunc.config.getoption("--bench-size")
    middle = middle_of(size)
    cases = [
        (over, middle | {over: value})
        for over, values in VALUES[size].items()
        for value in values
        if 4 * (middle | {over: value})["vectors"] * (middle | {over: value})["width"] <= MAX_BYTES
    ]
    metafunc.parametrize(("over", "case"), cases, ids=[f"{over}-{case[over]}" for over, case in cases])


@pytest.fixture
def index(cached, case):
    rows, width = case["vectors"], case["width"]

    def make():
        made = ExactIndex(width)
        rng = np.random.default_rng(0)
        for start in range(0, rows, 100_000):
            made.add(gaussian(rng, min(100_000, rows - start), width))
        return made

    return cached((rows, width), "index", make)


def test_growth(measure, bench_size, index, over, case):
    queries = gaussian(np.random.default_rng(1), BATCHES * case["queries"], case["width"])
    read = scanned_bytes(len(index), index.width, case["queries"])
    _, ids = measure(
        lambda some: index.search(some, k=case["k"], threads=case["threads"]),
        [(some,) for some in np.split(queries, BATCHES)],
        group=f"by {over}: " + ", ".join(f"{name} {value:,}" for name, value in case.items() if name != over),
        name=f"{over} {case[over]:,}",
        ours=case == middle_of(bench_size),
        parameters={"over": over, **case},
        limit={"read bandwidth": read, "int8 rate": len(index) * index.width * case["queries"]},
        touched=read,
        bytes=index_bytes(index),
    )
    assert len(set(ids[0])) == case["k"]
