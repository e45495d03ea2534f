import math
from itertools import pairwise

import numpy as np
from planted_vectors import clustered

from care_accel import ApproximateIndex
from care_accel.index.approximate.building import choosing


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


def test_after_a_setting_that_fails_one_with_more_to_spare_is_tested(exact, exact_is_slow, monkeypatch):
    tested, real = [], choosing._recalls

    def recalls(finder, *arguments):
        tested.append(finder.value)
        return real(finder, *arguments)

    monkeypatch.setattr(choosing, "_recalls", recalls)
    monkeypatch.setattr(choosing, "exceeds", lambda *arguments: False)
    index = ApproximateIndex.build(exact, 0.95, queries=clustered(900, 1), family=["IVF32,Flat"], threads=1)
    assert index.choice.is_exact
    assert len(index.choice.attempts) == len(tested) == 4
    assert all(more > less for less, more in pairwise(tested)), tested
