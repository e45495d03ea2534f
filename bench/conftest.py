"""Shared by all suites: sizes, alternating blocks of measurements, and recording of results.

``pytest bench --benchmark-only --bench-size smoke|default|full [--bench-results FILE]``
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.harness import record
from bench.harness.limits import Limits
from bench.harness.measure import BLOCKS, EngineCache, Measure
from care_accel.errors import CareError

SIZES = tuple(BLOCKS)


def pytest_addoption(parser):
    parser.addoption(
        "--bench-size",
        choices=SIZES,
        default="default",
        help="smoke: only checks that everything runs; default: below twenty minutes; full: everything",
    )
    parser.addoption(
        "--bench-blocks",
        type=int,
        metavar="N",
        help="number of alternating blocks per engine; 3 in the default size, 5 in the full size",
    )
    for name, meaning in (
        ("case", "of test_approximate.py only: KIND,VECTORS,WIDTH instead of the cases of the size"),
        ("recall", "of test_approximate.py only: a recall instead of those of the size"),
        ("peer", "of test_approximate.py only: a peer by the start of its name, instead of all"),
    ):
        parser.addoption(f"--approximate-{name}", action="append", help=f"{meaning}; may be repeated")
    parser.addoption(
        "--embeddings",
        type=Path,
        metavar="FOLDER",
        help="real embeddings made by bench/inputs/embeddings.py, instead of those of a data folder's retrieval sets",
    )
    parser.addoption(
        "--bench-results",
        type=Path,
        metavar="FILE",
        help="file to append the run to; default: bench/results/<machine>.json, none for the smoke size",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    config.option.benchmark_quiet = True  # its tables ignore blocks
    if (file := config.getoption("--bench-results")) or config.getoption("--bench-size") != "smoke":
        try:  # fail before the measurements if the results cannot be saved
            record.runs_before(file)
        except CareError as wrong:
            raise pytest.UsageError(str(wrong)) from None
    config.stash[STARTED] = datetime.now(UTC)
    config.stash[LIMITS] = Limits(once=config.getoption("--bench-size") == "smoke")
    config.stash[CACHE] = EngineCache()


STARTED, LIMITS, CACHE = (pytest.StashKey() for _ in range(3))


def pytest_generate_tests(metafunc):
    if "block" in metafunc.fixturenames:
        option = metafunc.config.getoption
        blocks = option("--bench-blocks") or BLOCKS[option("--bench-size")]
        metafunc.parametrize("block", range(1 if option("benchmark_disable", False) else blocks))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Alternate the engines of a case: order by test and case, then by block, then by engine."""
    firsts: dict[tuple, int] = {}

    def place(item):
        parameters = dict(item.callspec.params) if hasattr(item, "callspec") else {}
        block = parameters.pop("block", 0)
        parameters.pop("engine", None)
        case = (item.path, item.originalname, *map(str, parameters.items()))
        return firsts.setdefault(case, len(firsts)), block

    items.sort(key=place)


@pytest.fixture
def block():
    """Return the number of the block; `pytest_generate_tests` overrides it."""
    return 0


@pytest.fixture(scope="session")
def bench_size(request):
    return request.config.getoption("--bench-size")


@pytest.fixture
def measure(request, benchmark, bench_size, block):
    """Return the timer of one engine in one block: see `measure.Measure`."""
    suite = Path(request.node.path).stem.removeprefix("test_").replace("_", " ")
    return Measure(benchmark, request.config.stash[LIMITS], bench_size, block, suite)


@pytest.fixture
def cached(request):
    """Return the cache of a case's engines, kept for all its blocks: ``cached(case, engine, make)``."""
    return request.config.stash[CACHE]


def pytest_terminal_summary(terminalreporter, config):
    """Print each group's percentiles, ratios and shares of the limit, and append them to the machine's file."""
    session = getattr(config, "_benchmarksession", None)
    stats = terminalreporter.stats
    failed = {report.nodeid for report in (*stats.get("failed", ()), *stats.get("error", ()))}
    rows = record.rows_of(session.benchmarks, failed) if session else []
    if not rows:
        return
    for group, lines in record.lines(rows):
        terminalreporter.section(group, sep="-")
        for line in lines:
            terminalreporter.write_line(line)
    if failed:
        terminalreporter.write_line("rows that failed in any block are left out")
    limits = config.stash[LIMITS].summary()
    terminalreporter.section("limits of this machine, measured between the rows", sep="-")
    for name, rate in limits.items():
        terminalreporter.write_line(
            f"{name}: {rate['median']:.3g} {rate['unit']}, from {rate['low']:.3g} to {rate['high']:.3g} "
            f"({rate['samples']} samples)"
        )
    file, size = config.getoption("--bench-results"), config.getoption("--bench-size")
    if file or size != "smoke":
        file = record.append(record.run_of(rows, limits, size, config.stash[STARTED]), file)
        terminalreporter.write_line(f"appended to {file}")
