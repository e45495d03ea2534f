import math
from itertools import pairwise

import numpy as np
import pytest
from planted_vectors import clustered

from care_accel import ApproximateIndex
from care_accel.index.approximate.building import choosing
from care_accel.index.approximate.choice import ERROR


def test_of_one_structure_the_smallest_setting_that_proves_the_recall_is_chosen_whatever_a_busy_machine_measured(
    build, monkeypatch
):
    smallest = build()
    monkeypatch.setattr(
        choosing, "alternating_times", lambda searches, calls: [1.0, *np.arange(len(searches), 1, -1) * 1e-3]
    )
    busy = build()
    assert busy.choice.value == smallest.choice.value
    assert busy.choice.chosen_us >= smallest.choice.chosen_us


def test_what_is_not_proven_when_time_is_over_is_not_chosen(exact, exact_is_slow, monkeypatch):
    monkeypatch.setattr(choosing, "_BLOCK", 100)
    monkeypatch.setattr(choosing, "perf_counter", lambda: math.inf)
    index = ApproximateIndex.build(exact, 0.95, queries=clustered(900, 1), family=["IVF32,Flat"], threads=1)
    assert index.choice.is_exact
    assert "time was over before IVF32,Flat had proven recall 0.95" in index.explain()


def test_subsets_are_scanned_exactly_if_time_is_over_before_they_are_measured(build, monkeypatch):
    monkeypatch.setattr(choosing, "_BLOCK", 10_000)  # the proof is one block
    monkeypatch.setattr(choosing, "perf_counter", lambda: math.inf)
    choice = build().choice
    assert choice.least_share is None
    assert choice.least_alive is None


@pytest.mark.parametrize(
    ("passes", "chosen"),
    [
        ([True, True, True], 2),
        ([True, True, False], 1),
        ([True, False], 0),
        # If the first one fails, larger settings are tested with the rest of the error.
        ([False, True, True], 2),
        ([False, True, False], 1),
        ([False, False], None),
    ],
)
def test_settings_are_tested_from_the_safest_to_the_fastest_until_one_fails(
    exact, exact_is_slow, monkeypatch, passes, chosen
):
    tested = []

    def recalls(finder, tuner, asked, until):
        tested.append(finder.value)
        return np.full(len(asked), float(passes[len(tested) - 1]))

    monkeypatch.setattr(choosing, "_recalls", recalls)
    index = ApproximateIndex.build(exact, 0.95, queries=clustered(900, 1), family=["IVF32,Flat"], threads=1)
    assert len(tested) == len(passes)
    assert len(index.choice.attempts) == passes.count(False)
    assert index.choice.value == (0 if chosen is None else tested[chosen])
    first, second = (tested, []) if passes[0] else (tested[:1], tested[1:])
    assert all(more > less for some in (first, second) for more, less in pairwise(some)), tested
    assert not second or min(second) > first[0]


def test_each_sequence_of_tests_has_its_share_of_the_error(exact, exact_is_slow, monkeypatch):
    errors = []

    def exceeds(observed, mean, error, bets=()):
        errors.append(error)
        return False

    monkeypatch.setattr(choosing, "exceeds", exceeds)
    index = ApproximateIndex.build(exact, 0.95, queries=clustered(900, 1), family=["IVF32,Flat"], threads=1)
    assert index.choice.is_exact
    assert len(errors) == 2
    assert sum(errors) == pytest.approx(ERROR)
