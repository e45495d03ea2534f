"""What all suites share: their sizes, blocks of measurements that take turns, and what is recorded at the end.

``pytest bench --benchmark-only --bench-size smoke|default|full [--bench-results FILE]``
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import record
from limits import Limits
from measure import BLOCKS, Kept, Measure

from care_accel.errors import CareError

SIZES = tuple(BLOCKS)


def pytest_addoption(parser):
    parser.addoption(
        "--bench-size",
        choices=SIZES,
        default="default",
        help="smoke: does it run; default: below twenty minutes; full: everything",
    )
    parser.addoption(
        "--bench-blocks",
        type=int,
        metavar="N",
        help="how often engines take turns; 3 in the default size, 5 in the full one",
    )
    parser.addoption(
        "--bench-results",
        type=Path,
        metavar="FILE",
        help="where the run is appended; bench/results/<machine>.json by default, and nowhere in the smoke size",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    config.option.benchmark_quiet = True  # its tables know nothing of blocks
    if (file := config.getoption("--bench-results")) or config.getoption("--bench-size") != "smoke":
        try:  # before a run of twenty minutes that could not be kept
            record.runs_before(file)
        except CareError as wrong:
            raise pytest.UsageError(str(wrong)) from None
    config.stash[STARTED] = datetime.now(UTC)
    config.stash[LIMITS] = Limits(once=config.getoption("--bench-size") == "smoke")
    config.stash[KEPT] = Kept()


STARTED, LIMITS, KEPT = (pytest.StashKey() for _ in range(3))


def pytest_generate_tests(metafunc):
    if "block" in metafunc.fixturenames:
        option = metafunc.config.getoption
        blocks = option("--bench-blocks") or BLOCKS[option("--bench-size")]
        metafunc.parametrize("block", range(1 if option("benchmark_disable", False) else blocks))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Let what is compared take turns: by test and case, then by block, then by engine."""
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
    """Return the number of the block, which `pytest_generate_tests` gives."""
    return 0


@pytest.fixture(scope="session")
def bench_size(request):
    return request.config.getoption("--bench-size")


@pytest.fixture
def measure(request, benchmark, bench_size, block):
    """Return what times one engine in one block: see `measure.Measure`."""
    suite = Path(request.node.path).stem.removeprefix("test_").replace("_", " ")
    return Measure(benchmark, request.config.stash[LIMITS], bench_size, block, suite)


@pytest.fixture
def kept(request):
    """Return what keeps the engines of a case through its blocks: ``kept(case, engine, make)``."""
    return request.config.stash[KEPT]


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
        terminalreporter.write_line("what failed in any block is left out")
    limits = config.stash[LIMITS].summary()
    terminalreporter.section("limits of this machine, measured in between", sep="-")
    for name, rate in limits.items():
        terminalreporter.write_line(
            f"{name}: {rate['median']:.3g} {rate['unit']}, from {rate['low']:.3g} to {rate['high']:.3g} "
            f"({rate['samples']} samples)"
        )
    file, size = config.getoption("--bench-results"), config.getoption("--bench-size")
    if file or size != "smoke":
        file = record.append(record.run_of(rows, limits, size, config.stash[STARTED]), file)
        terminalreporter.write_line(f"appended to {file}")
