"""The recall in use: that it is the true one, of the queries that are searched approximately, and that a low one is told."""

import threading

import numpy as np
import pytest
from planted_vectors import ROWS, clustered

from care_accel import CareError
from care_accel.index.approximate import RecallWatch
from care_accel.index.approximate.recall import recalls


@pytest.fixture(scope="module")
def index(build):
    """Return an index of a low recall, which no test changes but for its watch."""
    return build(recall=0.8)


def asked(index, watch, queries, k=10, **options):
    """Search for each query alone, wait for its check, and return its true recall."""
    found = []
    for row in range(len(queries)):
        one = queries[row : row + 1]
        scores = index.search_in_float64(one, k, **options)[0]
        watch.wait()
        exact = index._exact(index._state).search_in_float64(one, k, **options)[0]
        found.append(recalls(scores, exact)[0])
    return np.array(found)


def test_the_observed_recall_is_the_true_one_of_every_mth_query(index):
    watch = index.watch(every=3)
    assert index.observed is None
    assert np.isnan(watch.recall)
    queries = clustered(150, 31)
    true = asked(index, watch, queries[:100])
    assert watch.recall == index.observed.recall == pytest.approx(true[2::3].mean(), abs=1e-12)
    assert index.observed.queries == 33
    assert index.observed.low < watch.recall < index.observed.high
    # A batch counts as its queries, wherever the turn falls in it.
    assert index.choice.exact_from is None
    index.search(queries[100:], 10)
    watch.wait()
    assert index.observed.queries > 33


def test_exact_answers_are_not_counted(index):
    watch = index.watch(every=1)
    narrow = np.zeros(ROWS, dtype=bool)
    narrow[:20] = True
    index.search(clustered(1, 5)[0], 10, subset=narrow)
    index.search(clustered(1, 5)[0], 11)
    watch.wait()
    assert index.observed is None


def test_the_subset_and_what_was_added_count_for_the_truth(build):
    index = build(recall=0.8)
    watch = index.watch(every=1)
    broad = np.random.default_rng(0).random(ROWS) < 0.95
    index.add(clustered(100, 41))
    index.remove(np.arange(50))
    subset = np.append(broad, np.ones(100, dtype=bool))
    true = asked(index, watch, clustered(80, 42), subset=subset)
    assert index.observed.queries == 80
    assert watch.recall == pytest.approx(true.mean(), abs=1e-12)
    assert true.mean() < 1


def given(watch, choice, recalls_of, k=10):
    """Note queries of which a share of the k hits was found, one by one."""
    for recall in recalls_of:
        exact = np.arange(k, 0.0, -1)[np.newaxis]
        found = np.sort(np.where(np.arange(k) < round(recall * k), exact, -1.0))[:, ::-1]
        watch.note(choice, np.zeros((1, 4), np.float32), found, lambda query, k, exact=exact: exact)
        watch.wait()


def test_a_recall_that_is_proven_to_be_too_low_is_told_once(index):
    said, checks = [], []
    watch = RecallWatch(1, warn=said.append, checked=lambda: checks.append(1))
    given(watch, index.choice, [0.9, 0.7, 0.8, 0.9] * 10)
    assert said == []
    given(watch, index.choice, [0.5] * 60)
    assert len(said) == 1
    assert watch.observed.high < index.choice.asked
    assert "0.8 was asked for: build the index again" in said[0]
    assert len(checks) == 100
    # An index that was built again is another one.
    given(watch, index.rebuild(queries=clustered(900, 1)).choice, [1.0])
    assert (watch.observed.recall, watch.observed.queries) == (1, 1)


def test_the_running_recall_is_that_of_the_newest_queries(index, monkeypatch):
    from care_accel.index.approximate import watching

    monkeypatch.setattr(watching, "_WINDOW", 5)
    watch = RecallWatch(1)
    given(watch, index.choice, [0.5] * 5 + [1.0] * 5)
    assert watch.recall == 1


def test_checks_never_hold_up_an_answer(index):
    """While one check takes for ever, queries are noted and forgotten, and the first ones are checked afterwards."""
    goes_on, begun = threading.Event(), threading.Event()

    def slow(query, k):
        begun.set()
        goes_on.wait(30)
        return np.ones((1, k))

    watch = RecallWatch(1)
    for _ in range(100):
        watch.note(index.choice, np.zeros((1, 4), np.float32), np.ones((1, 10)), slow)
    assert begun.wait(30)
    goes_on.set()
    watch.wait()
    assert 1 <= watch.observed.queries < 100


def test_a_check_that_fails_ends_no_other(index, caplog):
    watch = RecallWatch(1)

    def broken(query, k):
        raise OSError("patient's words")

    watch.note(index.choice, np.zeros((1, 4), np.float32), np.ones((1, 10)), broken)
    watch.wait()
    given(watch, index.choice, [1.0])
    assert watch.observed.queries == 1
    assert "OSError" in caplog.text
    assert "patient" not in caplog.text


def test_a_wrong_number_of_queries_is_refused(index):
    with pytest.raises(CareError, match="every"):
        index.watch(every=0)
