"""The simulation of many workers: what must hold whatever the service times are."""

from dataclasses import replace

import pytest

from bench.cluster import simulation as simulation
from care_accel.collection.estimate import estimate

EVEN = simulation.Work("even", 1_000_000, 100, 8, 100_000, 1e6, take=0.0, read=0.0, spread=0.0)
FREE = replace(EVEN, link=1e18, commit=0.0, compare=0.0)


@pytest.mark.parametrize("workers", [1, 4, 50])
def test_without_costs_workers_take_the_ideal_time(workers):
    assert simulation.simulate(FREE, workers).efficiency == pytest.approx(1)


def test_parts_that_do_not_divide_evenly_leave_workers_idle_at_the_end():
    """1,000 parts on 64 workers are 16 turns of which the last is of 40."""
    done = simulation.simulate(FREE, 64)
    assert done.efficiency == pytest.approx(1000 / 64 / 16)


@pytest.mark.parametrize("workers", [1, 8, 64])
def test_no_run_is_faster_than_its_slowest_resource(workers):
    work = replace(EVEN, take=0.02, read=1e-6, spread=0.3, link=4e6)
    done = simulation.simulate(work, workers)
    assert 0 < done.efficiency <= 1.05
    assert done.driver <= 1
    assert done.committing <= 1
    assert done.link <= 1
    assert done.seconds >= work.documents * work.width * 4 / work.link
    assert done.commits == estimate(work.documents, work.width, model_tokens_per_second=work.speed).commits


def test_commits_beside_the_driver_delay_only_the_end():
    """The last of them come after the last part; those that the driver makes itself hold up workers all along."""
    slow = replace(FREE, documents=4_000_000, compare=1e-6)
    free = simulation.simulate(replace(slow, compare=0.0), 16).seconds
    beside = simulation.simulate(slow, 16)
    itself = simulation.simulate(slow, 16, one_thread=True)
    assert free < beside.seconds < itself.seconds
    assert beside.seconds - free < 0.75 * (itself.seconds - free)
    assert beside.commits == itself.commits


def test_commits_that_take_longer_than_all_parts_are_the_limit():
    slow = replace(FREE, compare=1e-4)
    done = simulation.simulate(slow, 64)
    assert done.committing == pytest.approx(1, abs=0.02)
    assert done.efficiency < 0.2
