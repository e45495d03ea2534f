"""What all suites share: their sizes, and a table of ratios at the end.

``pytest bench --benchmark-only --bench-size smoke|default|full``
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

SIZES = ("smoke", "default", "full")


def pytest_addoption(parser):
    parser.addoption(
        "--bench-size",
        choices=SIZES,
        default="default",
        help="smoke: does it run; default: minutes; full: the sizes that are reported",
    )


@pytest.fixture(scope="session")
def bench_size(request):
    return request.config.getoption("--bench-size")


@pytest.fixture(scope="session")
def read_bandwidth():
    """Return the bytes a second that this machine reads now, over an array that no cache holds.

    The best of several sums by as many threads as the machine has: the limit of any scan.
    """
    from concurrent.futures import ThreadPoolExecutor
    from os import sched_getaffinity
    from time import perf_counter

    threads = len(sched_getaffinity(0))
    parts = np.array_split(np.ones(64 * 2**20, dtype=np.float32), threads)
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(7):
            started = perf_counter()
            list(pool.map(np.max, parts))
            best = max(best, sum(p.nbytes for p in parts) / (perf_counter() - started))
    return best


@pytest.fixture(scope="session")
def int8_rate():
    """Return the int8 products a second of torch's matrix product (oneDNN), the best of several."""
    from time import perf_counter

    import torch

    size = 2048
    a, b = (torch.randint(-128, 127, (size, size), dtype=torch.int8) for _ in range(2))
    best = 0.0
    for _ in range(7):
        started = perf_counter()
        torch._int_mm(a, b)
        best = max(best, size**3 / (perf_counter() - started))
    return best


def _best_rate(work, amount):
    """Return the most that was done a second on the GPU, of several runs; the first ones warm up."""
    import torch

    best = 0.0
    for _ in range(10):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        best = max(best, amount / (1e-3 * begin.elapsed_time(end)))
    return best


@pytest.fixture(scope="session")
def gpu_read_bandwidth():
    """Return the bytes a second that the GPU reads: sums over 4 GB."""
    import torch

    values = torch.ones(2**30, dtype=torch.float32, device="cuda")
    return _best_rate(values.sum, values.nbytes)


@pytest.fixture(scope="session")
def gpu_copy_bandwidth():
    """Return the bytes a second that the GPU reads and writes while it copies 2 GB."""
    import torch

    values = torch.ones(2**29, dtype=torch.float32, device="cuda")
    target = torch.empty_like(values)
    return _best_rate(lambda: target.copy_(values), 2 * values.nbytes)


@pytest.fixture(scope="session")
def gpu_matmul_rate():
    """Return the operations a second of a large bfloat16 matrix product on the GPU."""
    import torch

    size = 8192
    values = torch.randn(size, size, dtype=torch.bfloat16, device="cuda")
    return _best_rate(lambda: values @ values, 2 * size**3)


# What a benchmark may hold against its median: seconds that the limit allows, and what the limit is.
LIMITS = {
    "share_of_limit": "limit",
    "share_of_limit_bytes": "read bandwidth",
    "share_of_limit_products": "int8 rate",
    "share_of_limit_copy": "copy bandwidth",
    "share_of_limit_flops": "bfloat16 rate",
}


def pytest_terminal_summary(terminalreporter, config):
    """Print each group's medians, their ratio to ours, and the share of the limit that was reached."""
    session = getattr(config, "_benchmarksession", None)
    groups = defaultdict(list)
    for bench in session.benchmarks if session else []:
        if bench.stats.rounds:
            groups[bench.group].append(bench)
    for group, benches in groups.items():
        ours = next((b for b in benches if b.extra_info.get("ours")), None)
        terminalreporter.section(group or "benchmarks", sep="-")
        for bench in sorted(benches, key=lambda b: b.stats.median):
            line = f"{bench.extra_info.get('name', bench.name):<32}{1e3 * bench.stats.median:10.3f} ms"
            if ours:
                line += f"{bench.stats.median / ours.stats.median:8.2f} x ours"
            for key, limit in LIMITS.items():
                if share := bench.extra_info.get(key):
                    line += f"{share / bench.stats.median:8.1%} of the {limit}"
            if note := bench.extra_info.get("note"):
                line += f"   {note}"
            terminalreporter.write_line(line)
