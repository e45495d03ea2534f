import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr, permutation_test, rankdata, spearmanr

from care_accel import CareError
from care_accel.eval.scores import QueryScores
from care_accel.eval.statistics.resampling import CorrelationDifference, MeanDifference, Ranks
from care_accel.eval.statistics.significance import adjust_holm, holm, paired_test


def ranking(values, queries=None, task="retrieval/a", metric="ndcg_at_10"):
    queries = queries or [f"q{i}" for i in range(len(values))]
    return QueryScores(task, metric, "mean", np.asarray(values, dtype=np.float64), tuple(queries))


def pairs(gold, values, kind="spearman"):
    gold, values = (np.asarray(side, dtype=np.float64) for side in (gold, values))
    return QueryScores("sts/a", kind, kind, values, gold=gold)


def means(a, b, axis=-1):
    return b.mean(axis=axis) - a.mean(axis=axis)


def test_a_difference_is_b_less_a():
    found = paired_test(ranking([0.1, 0.4, 0.4]), ranking([0.4, 0.4, 0.7]))
    assert (found.a, found.b, found.difference) == pytest.approx((0.3, 0.5, 0.2))
    assert (found.task, found.metric, found.n) == ("retrieval/a", "ndcg_at_10", 3)


def test_queries_are_matched_by_their_ids_and_not_by_their_order():
    a = ranking([0.1, 0.5, 0.9], ["x", "y", "z"])
    assert paired_test(a, ranking([0.9, 0.1, 0.5], ["z", "x", "y"])).interval == (0.0, 0.0)


@pytest.mark.parametrize("count", [1, 5, 9])
def test_few_queries_are_tested_in_every_way_there_is(count):
    rng = np.random.default_rng(3)
    a, b = rng.random(count), rng.random(count) + 0.2
    gains = b - a
    ways = [
        abs(np.dot(signs, gains)) >= abs(gains.sum()) - 1e-12
        for signs in itertools.product((1, -1), repeat=count)
    ]
    assert paired_test(ranking(a), ranking(b)).p_value == sum(ways) / len(ways)


@pytest.mark.parametrize("count", [8, 300])
def test_p_values_are_those_of_scipy(count):
    rng = np.random.default_rng(4)
    a = rng.random(count)
    b = a + rng.normal(0.02, 0.2, count)
    theirs = permutation_test(
        (a, b), means, permutation_type="samples", vectorized=True, n_resamples=20_000, rng=1
    ).pvalue
    assert paired_test(ranking(a), ranking(b)).p_value == pytest.approx(
        theirs, abs=1e-12 if count == 8 else 0.015
    )


@pytest.mark.parametrize(("kind", "function"), [("spearman", spearmanr), ("pearson", pearsonr)])
def test_of_few_pairs_every_swap_of_two_similarities_is_tried(kind, function):
    rng = np.random.default_rng(5)
    gold = rng.integers(0, 3, 8)
    a, b = gold + rng.normal(0, 3, 8), 100 * (gold + rng.normal(0, 1, 8))  # on another scale
    one, two = (
        rankdata(side) if kind == "spearman" else (side - side.mean()) / side.std() for side in (a, b)
    )
    of_gold = rankdata(gold) if kind == "spearman" else gold
    observed = function(gold, b)[0] - function(gold, a)[0]
    ways = []
    for swap in itertools.product((False, True), repeat=8):
        first, second = np.where(swap, two, one), np.where(swap, one, two)
        difference = np.corrcoef(of_gold, second)[0, 1] - np.corrcoef(of_gold, first)[0, 1]
        ways.append(abs(difference) >= abs(observed) - 1e-12)
    found = paired_test(pairs(gold, a, kind), pairs(gold, b, kind))
    assert found.difference == pytest.approx(observed)
    assert (found.a, found.b) == pytest.approx((function(gold, a)[0], function(gold, b)[0]))
    assert found.p_value == sum(ways) / len(ways)


@pytest.mark.parametrize("ranks", [True, False])
def test_correlations_in_resamples_are_those_of_the_rows_drawn(ranks):
    rng = np.random.default_rng(6)
    gold, a, b = rng.integers(0, 4, 40), rng.integers(0, 9, 40), rng.normal(size=40)
    runs = CorrelationDifference(*(np.asarray(side, float) for side in (gold, a, b)), ranks=ranks)
    drawn = rng.integers(0, 40, (20, 40))
    counts = np.stack([np.bincount(rows, minlength=40) for rows in drawn]).astype(float)
    function = spearmanr if ranks else pearsonr
    expected = [function(gold[rows], b[rows])[0] - function(gold[rows], a[rows])[0] for rows in drawn]
    assert runs.resampled(counts) == pytest.approx(expected)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.data())
def test_ranks_in_a_resample_are_those_of_its_values_sorted(values, data):
    rows = data.draw(st.lists(st.integers(0, len(values) - 1), min_size=1, max_size=20))
    values = np.array(values, dtype=float)
    counts = np.bincount(rows, minlength=len(values)).astype(float)[None]
    expected = rankdata(values[rows]) - (len(rows) + 1) / 2
    assert Ranks(values).within(counts)[0][rows].tolist() == expected.tolist()


def test_the_same_run_twice_does_not_differ():
    for scores in (ranking(np.random.default_rng(7).random(50)), pairs([1, 2, 2, 3, 5], [1, 2, 3, 4, 9])):
        found = paired_test(scores, scores)
        assert (found.difference, found.p_value, found.interval) == (0.0, 1.0, (0.0, 0.0))
        assert not found.significant


def test_of_many_queries_two_that_differ_are_never_more_than_chance():
    rng = np.random.default_rng(13)
    for _ in range(8):
        a = rng.random(3000)
        b = a.copy()
        b[rng.choice(3000, 2, replace=False)] += 0.02 * rng.random(2)
        # Both ways in which both gains point the same way, of four.
        assert paired_test(ranking(a), ranking(b)).p_value == 0.5


def test_all_equal_scores_do_not_differ():
    assert paired_test(ranking([0.5] * 20), ranking([0.5] * 20)).p_value == 1.0


def test_a_gain_for_every_query_is_as_significant_as_the_draws_allow():
    a = np.linspace(0, 0.5, 200)
    found = paired_test(ranking(a), ranking(a + 0.1))
    assert found.p_value == 1 / 10_001
    assert found.interval == pytest.approx((0.1, 0.1))
    assert found.significant


def test_the_two_directions_mirror_each_other():
    rng = np.random.default_rng(8)
    a, b = ranking(rng.random(400)), ranking(rng.random(400))
    there, back = paired_test(a, b), paired_test(b, a)
    assert there.p_value == back.p_value
    assert there.interval == pytest.approx((-back.interval[1], -back.interval[0]))


def test_a_second_call_gives_the_same():
    rng = np.random.default_rng(9)
    a, b = ranking(rng.random(100)), ranking(rng.random(100))
    assert paired_test(a, b) == paired_test(a, b)


# Simulations, 400 data sets each: a share near 0.05 is then known to 0.011 (one standard deviation).


@pytest.fixture
def quick(monkeypatch):
    for module in ("resampling", "significance"):
        monkeypatch.setattr(f"care_accel.eval.statistics.{module}.RESAMPLES", 500)


def simulate(make, level=0.05, repeats=400):
    rng = np.random.default_rng(10)
    return [paired_test(*make(rng), level=level) for _ in range(repeats)]


def skewed(rng, gain):
    """Return scores as nDCG has them, many of them 0, of two runs that share how hard a query is."""
    hard = rng.random(80)
    a, b = (np.where(rng.random(80) < hard, rng.random(80), 0.0) for _ in range(2))
    return ranking(a), ranking(b + gain)


def correlated(rng, kind, noise_of_b):
    gold = rng.integers(0, 3, 80)
    shared = rng.normal(size=80)
    a, b = (gold + shared + noise * rng.normal(size=80) for noise in (1.0, noise_of_b))
    return pairs(gold, a, kind), pairs(gold, 10 * b, kind)


@pytest.mark.parametrize(
    "make",
    [
        lambda rng: skewed(rng, 0.0),
        lambda rng: correlated(rng, "spearman", 1.0),
        lambda rng: correlated(rng, "pearson", 1.0),
    ],
    ids=["means", "spearman", "pearson"],
)
def test_runs_that_are_alike_are_called_different_as_often_as_the_level_says(quick, make):
    wrong = np.mean([found.significant for found in simulate(make)])
    assert 0.02 < wrong < 0.085


@pytest.mark.parametrize("gain", [0.0, 0.1])
def test_the_interval_covers_the_true_difference_as_often_as_it_says(quick, gain):
    for level in (0.05, 0.2):
        found = simulate(lambda rng: skewed(rng, gain), level=level)
        covered = np.mean([one.interval[0] <= gain <= one.interval[1] for one in found])
        assert covered == pytest.approx(1 - level, abs=0.06 if level == 0.2 else 0.035)


@pytest.mark.parametrize("kind", ["spearman", "pearson"])
def test_the_interval_of_correlations_covers_a_difference_of_none_as_often_as_it_says(quick, kind):
    found = simulate(lambda rng: correlated(rng, kind, 1.0))
    assert np.mean([one.interval[0] <= 0 <= one.interval[1] for one in found]) == pytest.approx(
        0.95, abs=0.04
    )


@pytest.mark.parametrize("kind", ["spearman", "pearson"])
def test_a_real_difference_of_correlations_is_found(quick, kind):
    found = simulate(lambda rng: correlated(rng, kind, 10.0), repeats=50)
    assert np.mean([one.significant and one.difference < 0 for one in found]) > 0.75


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.999))
def test_holm_rejects_what_its_steps_reject(p_values, level):
    corrected = holm(p_values)
    count = len(p_values)
    rejected = set()
    for step, i in enumerate(sorted(range(count), key=p_values.__getitem__)):
        if p_values[i] * (count - step) > level:
            break
        rejected.add(i)
    assert {i for i, p in enumerate(corrected) if p <= level} == rejected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms())
def test_holm_stays_between_no_correction_and_bonferroni_s_and_keeps_the_order(p_values, random):
    corrected = holm(p_values)
    assert all(p <= c <= min(1, p * len(p_values)) for p, c in zip(p_values, corrected, strict=True))
    pairs_of = sorted(zip(p_values, corrected, strict=True))
    assert all(one[1] <= two[1] for one, two in itertools.pairwise(pairs_of))
    order = list(range(len(p_values)))
    random.shuffle(order)
    assert holm([p_values[i] for i in order]) == [corrected[i] for i in order]


def test_holm_on_an_example_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_tasks_that_are_tested_together_are_corrected_together():
    one = paired_test(ranking([0.1, 0.4]), ranking([0.4, 0.7]))
    family = [replace(one, p_value=p) for p in (0.02, 0.5, 0.01)]
    assert [d.significant for d in adjust_holm(family[:1])] == [True]
    together = adjust_holm(family)
    assert [d.adjusted for d in together] == pytest.approx([0.04, 0.5, 0.03])
    assert [d.significant for d in together] == [True, False, True]
    assert [d.p_value for d in together] == [0.02, 0.5, 0.01]
    assert not any(d.significant for d in adjust_holm(family, level=0.01))


@pytest.mark.parametrize(
    ("b", "words"),
    [
        (ranking([0.1, 0.2], ["q0", "other"]), "queries of the two runs are not the same"),
        (ranking([0.1, 0.2, 0.3]), "queries of the two runs are not the same"),
        (ranking([0.1, 0.2], ["q0", "q0"]), "queries of the two runs are not the same"),
        (ranking([0.1, 0.2], task="retrieval/b"), "cannot be compared"),
        (ranking([0.1, 0.2], metric="map_at_1000"), "cannot be compared"),
    ],
)
def test_runs_on_other_queries_are_refused(b, words):
    with pytest.raises(CareError, match=words):
        paired_test(ranking([0.1, 0.2]), b)


def test_other_pairs_and_constant_sides_are_refused():
    with pytest.raises(CareError, match="pairs of the two runs are not the same"):
        paired_test(pairs([1, 2, 3], [1, 2, 3]), pairs([1, 2, 4], [1, 2, 3]))
    with pytest.raises(CareError, match="spearman is undefined"):
        paired_test(pairs([1, 2, 3], [1, 2, 3]), pairs([1, 2, 3], [1, 1, 1]))


def test_many_queries_are_resampled_in_parts(monkeypatch):
    rng = np.random.default_rng(12)
    a, b = ranking(rng.random(300)), ranking(rng.random(300))
    whole = paired_test(a, b)
    monkeypatch.setattr("care_accel.eval.statistics.resampling._BATCH_VALUES", 300 * 999)
    sizes = []
    resampled = MeanDifference.resampled
    monkeypatch.setattr(
        MeanDifference,
        "resampled",
        lambda self, counts: sizes.append(counts.shape) or resampled(self, counts),
    )
    in_parts = paired_test(a, b)
    assert sizes == [(999, 300)] * 10 + [(10, 300)]
    assert in_parts.interval == pytest.approx(whole.interval, abs=0.005)
