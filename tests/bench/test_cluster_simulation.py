"""The simulation of many workers: what must hold whatever the service times are."""

from dataclasses import replace

import cluster_simulation as simulation
import pytest

from care_accel.collection.estimate import estimate

EVEN = simulation.Work("even", 1_000_000, 100, 8, 100_000, 1e6, take=0.0, read=0.0, spread=0.0)


@pytest.fixture
def free(monkeypatch):
    """Have commits cost nothing."""
    monkeypatch.setattr(simulation, "COMMIT", 0.0)
    monkeypatch.setattr(simulation, "COMPARE", 0.0)


@pytest.mark.parametrize("workers", [1, 4, 50])
def test_without_costs_workers_take_the_ideal_time(free, workers):
    assert simulation.simulate(replace(EVEN, link=1e18), workers).efficiency == pytest.approx(1)


def test_parts_that_do_not_divide_evenly_leave_workers_idle_at_the_end(free):
    """1,000 parts on 64 workers are 16 turns of which the last is of 40."""
    done = simulation.simulate(replace(EVEN, link=1e18), 64)
    assert done.efficiency == pytest.approx(1000 / 64 / 16)


@pytest.mark.parametrize("workers", [1, 8, 64])
def test_no_run_is_faster_than_its_slowest_resource(workers):
    work = replace(EVEN, take=0.02, read=1e-6, spread=0.3, link=4e6)
    done = simulation.simulate(work, workers)
    assert 0 < done.efficiency <= 1.05
    assert done.driver <= 1
    assert done.link <= 1
    assert done.seconds >= work.documents * work.width * 4 / work.link
    assert done.commits == estimate(work.documents, work.width, model_tokens_per_second=work.speed).commits


def test_a_slow_driver_holds_up_workers_that_have_two_parts_in_hand(monkeypatch):
    monkeypatch.setattr(simulation, "COMPARE", 1e-4)
    assert simulation.simulate(EVEN, 16).efficiency < 0.6 * simulation.simulate(EVEN, 1).efficiency
