"""How the approximate suite finds the best setting of a peer."""

import numpy as np
import pytest
import tuning
from test_approximate import Case


class Found(tuning.Way):
    """A way that finds all of the k best from some setting on, and counts how often it is asked."""

    def __init__(self, enough, most, finds, time):
        super().__init__(index=time, setting="nprobe", most=most, finds=finds)
        self.enough, self.asked = enough, []

    def use(self, value):
        pass

    def search_all(self, queries, value):
        self.asked.append(value)
        found = np.arange(tuning.K) if value >= self.enough else np.full(tuning.K, -1)
        return np.tile(found, (len(queries), 1))


@pytest.fixture
def case(monkeypatch):
    monkeypatch.setattr(tuning, "_median_time", lambda time, queries: time)
    vectors = np.sqrt(np.arange(100, 0, -1, dtype=np.float32))[:, None]  # the first are the best
    queries = np.ones((4, 1), np.float32)
    return Case("stub", vectors, queries, queries.copy())


def test_the_fastest_way_is_taken_with_the_smallest_setting_that_reaches_the_recall(case):
    ways = [Found(30, 90, "few lists", 2.0), Found(7, 40, "many lists", 1.0), Found(91, 90, "too few", 0.1)]
    way, value = tuning.tuned(case, tuning.Built(ways), 0.99)
    assert way is ways[1]
    assert value == min(step for step in tuning.STEPS if step >= 7)


def test_ways_that_find_the_same_are_searched_once_for_all_recalls(case):
    ways = [Found(7, 40, "lists", time) for time in (2.0, 1.0)]
    built = tuning.Built(ways)
    first = tuning.tuned(case, built, 0.99)
    assert tuning.tuned(case, built, 0.999) == first
    assert first[0] is ways[1]
    assert ways[1].asked == []
    assert len(ways[0].asked) == len(set(ways[0].asked))


def test_nothing_is_chosen_where_no_way_reaches_the_recall(case):
    assert tuning.tuned(case, tuning.Built([Found(91, 90, "lists", 1.0)]), 0.99) is None
