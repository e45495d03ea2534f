import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from care_accel.index.approximate.recall import (
    best_bet,
    exceeds,
    lower_bound,
    promises,
    queries_needed,
    recalls,
    upper_bound,
)


def test_a_hit_counts_by_its_score_as_often_as_it_occurs():
    exact = np.array([[5.0, 3.0, 3.0]] * 5)
    found = np.array(
        [[5.0, 3.0, 3.0], [3.0, 3.0, 3.0], [5.0, 3.0, 1.0], [2.0, 1.0, -np.inf], [5.0, 2.0, 1.0]]
    )
    # The second found three of equal score where two are among the best, and misses the best.
    np.testing.assert_allclose(recalls(found, exact), [1, 2 / 3, 2 / 3, 0, 1 / 3])


@pytest.mark.parametrize("mean", [0.8, 0.9, 0.99])
def test_the_bound_is_wrong_no_more_often_than_it_may_be(mean):
    # All hits of a query are found or missed together: as correlated as can be.
    rng = np.random.default_rng(1)
    wrong = sum(lower_bound(1.0 * (rng.random(400) < mean), 0.05) > mean for _ in range(200))
    assert wrong <= 18  # 10 are allowed on average; more than 18 have a probability below 1 %


def test_the_bound_is_tighter_for_hits_that_are_missed_one_by_one():
    rng = np.random.default_rng(0)
    together = 1.0 * (rng.random(2000) < 0.98)
    alone = rng.binomial(10, 0.98, 2000) / 10
    assert lower_bound(together, 0.05) < lower_bound(alone, 0.05) < alone.mean() < upper_bound(alone, 0.05)
    assert alone.mean() - lower_bound(alone, 0.05) < 0.006


def test_queries_without_a_miss_do_not_prove_a_recall_of_1():
    assert lower_bound(np.ones(400), 0.05) < 0.995
    assert not exceeds(np.ones(297), 0.99, 0.05, (1.0,))
    assert exceeds(np.ones(304), 0.99, 0.05, (0.99,))


@pytest.mark.parametrize("recall", [0.5, 0.95, 0.99, 0.999])
@pytest.mark.parametrize("k", [1, 2, 10])
def test_queries_without_a_miss_are_enough_from_some_number_on(recall, k):
    def enough(count):
        first = np.ones(count // 3)
        return promises(first, recall, 0.04, count - len(first), best_bet(first, recall, k))

    needed = queries_needed(recall, 0.04, k, 1 / 3)
    # A query that tunes and one that proves cannot both be one more.
    assert all(map(enough, range(needed + 1, needed + 4)))
    assert not any(map(enough, range(max(needed - 4, 3), needed - 1)))


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=60), error=st.floats(0.001, 0.5))
def test_bounds_enclose_the_mean_and_agree_with_the_test(values, error):
    observed = np.array(values)
    low, high = lower_bound(observed, error), upper_bound(observed, error)
    assert -1e-9 <= low <= observed.mean() + 1e-9
    assert observed.mean() - 1e-9 <= high <= 1 + 1e-9
    if low > 0.01:
        assert exceeds(observed, low - 0.005, error)
    assert not exceeds(observed, min(low + 0.005, 1), error)


def test_no_queries_prove_nothing():
    assert lower_bound(np.zeros(0), 0.05) == 0
    assert not exceeds(np.zeros(0), 0.5, 0.05)


def test_a_bet_that_fits_proves_more_than_all_bets_together():
    rng = np.random.default_rng(3)
    before, after = (rng.binomial(10, 0.997, 3000) / 10 for _ in range(2))
    bet = best_bet(before, 0.99, 10)
    assert 0.3 < bet <= 0.99
    assert lower_bound(after, 0.05, (bet,)) > 0.99


@pytest.mark.parametrize(
    ("mean", "recall", "count"), [(0.95, 0.97, 1000), (0.99, 0.996, 1000), (0.999, 0.9998, 3000)]
)
def test_what_is_promised_is_mostly_proven_by_twice_as_many_other_queries(mean, recall, count):
    rng = np.random.default_rng(5)
    promised, proven = 0, 0
    for _ in range(60):
        before, after = (rng.binomial(10, recall, some) / 10 for some in (count, 2 * count))
        bet = best_bet(before, mean, 10)
        if promises(before, mean, 0.035, len(after), bet):
            promised += 1
            proven += exceeds(after, mean, 0.035, (bet,))
    assert promised > 20
    assert proven > 0.8 * promised


def test_too_few_queries_or_too_low_a_recall_promise_nothing():
    assert not promises(np.ones(100), 0.99, 0.035, 200, best_bet(np.ones(100), 0.99, 10))
    assert promises(np.ones(200), 0.99, 0.035, 400, best_bet(np.ones(200), 0.99, 10))
    low = np.tile([1.0, 0.9], 500)
    assert not promises(low, 0.99, 0.035, 2000, best_bet(low, 0.99, 10))


def test_the_bet_is_smaller_where_all_hits_of_a_query_may_be_missed():
    assert best_bet(np.ones(1000), 0.99, 1) < best_bet(np.ones(1000), 0.99, 10)
    assert best_bet(np.append(np.ones(1000), 0.0), 0.99, 10) < best_bet(np.ones(1000), 0.99, 10)


def test_a_mean_of_nearly_nothing_is_proven_without_a_warning():
    assert exceeds(np.ones(50), 5e-324, 0.05)
