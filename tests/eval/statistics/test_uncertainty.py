from pathlib import Path

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from care_accel.eval.scores import QueryScores
from care_accel.eval.statistics.resampling import LEVEL, RESAMPLES
from care_accel.eval.statistics.significance import paired_test
from care_accel.eval.statistics.uncertainty import correlation_interval, mean_interval, query_scores

RELEVANT = {"q0": {"a": 2, "b": 1}, "q1": {"c": 1}}
RANKING = {"q0": {"a": 0.1, "b": 0.9, "c": 0.5}, "q1": {"a": 0.3, "c": 0.2}}


def test_scores_a_query_follow_the_formulas():
    # q0 is ranked b, c, a with the grades 1, 0, 2; the ideal order has 2, 1.
    gain, ideal = 1 + 2 / np.log2(4), 2 + 1 / np.log2(3)
    scores = query_scores("ndcg_at_10", RELEVANT, RANKING)
    assert scores == pytest.approx({"q0": gain / ideal, "q1": 1 / np.log2(3)})
    assert query_scores("map_at_1000", RELEVANT, RANKING) == pytest.approx({"q0": (1 + 2 / 3) / 2, "q1": 0.5})


def test_a_metric_over_all_queries_alone_is_refused():
    with pytest.raises(ValueError, match="spearman is not a per-query metric"):
        query_scores("spearman", RELEVANT, RANKING)


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution_for_many_queries():
    scores = np.random.default_rng(1).random(2000)
    half = 1.96 * scores.std() / np.sqrt(len(scores))
    low, high = mean_interval(scores)
    assert low == pytest.approx(scores.mean() - half, abs=half / 10)
    assert high == pytest.approx(scores.mean() + half, abs=half / 10)


def test_a_score_s_interval_is_that_of_its_difference_from_a_run_that_finds_nothing():
    scores = np.random.default_rng(3).random(60)
    queries = tuple(map(str, range(60)))
    nothing, run = (QueryScores("a", "ndcg_at_10", "mean", some, queries) for some in (0 * scores, scores))
    assert mean_interval(scores) == paired_test(nothing, run).interval


@pytest.mark.parametrize("name", ["evaluation", "report"])
def test_the_documents_say_how_intervals_are_made(name):
    text = (Path(__file__).parents[3] / "docs" / f"{name}.md").read_text(encoding="utf-8")
    assert f"{RESAMPLES:,} resamples" in text
    assert f"{100 * (1 - LEVEL):g} %" in text
    assert "1,000 resamples" not in text


@pytest.mark.parametrize(("ranks", "function"), [(True, spearmanr), (False, pearsonr)])
def test_the_interval_of_a_correlation_holds_it_and_narrows_with_more_pairs(ranks, function):
    rng = np.random.default_rng(2)
    widths = []
    for count in (100, 1600):
        x = rng.integers(0, 3, count)  # with ties, as grades have them
        y = x + rng.normal(size=count)
        low, high = correlation_interval(x, y, ranks=ranks)
        assert low < function(x, y)[0] < high
        widths.append(high - low)
    assert 3 < widths[0] / widths[1] < 5


def test_resamples_without_a_correlation_are_left_out():
    low, high = correlation_interval(np.array([0.0, 1.0]), np.array([0.2, 0.3]), ranks=True)
    assert low == high == pytest.approx(1.0)
