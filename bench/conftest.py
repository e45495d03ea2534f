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
            line = f"{bench.extra_info.get('name', bench.name):<28}{1e3 * bench.stats.median:10.3f} ms"
            if ours:
                line += f"{bench.stats.median / ours.stats.median:8.2f} x ours"
            if share := bench.extra_info.get("share_of_limit_bytes"):
                line += f"{share / bench.stats.median:8.1%} of the read bandwidth"
            if share := bench.extra_info.get("share_of_limit_products"):
                line += f"{share / bench.stats.median:8.1%} of the int8 rate"
            terminalreporter.write_line(line)
