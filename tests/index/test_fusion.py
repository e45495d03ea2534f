from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from care_accel.index.fusion import reciprocal_rank_fusion

rankings = st.lists(st.lists(st.integers(0, 30), unique=True, max_size=12), min_size=1, max_size=3)


def padded(ranking, depth=14):
    return np.array([ranking + [-1] * (depth - len(ranking))], dtype=np.int64)


@given(rankings, st.integers(1, 40), st.sampled_from([(1, 2, 1), (1, 1, 1), (3, 1, 2)]))
def test_the_order_is_that_of_the_sum_written_out_in_fractions(found, k, weights):
    weights, sums = weights[: len(found)], {}
    for weight, ranking in zip(weights, found, strict=True):
        for rank, document in enumerate(ranking, start=1):
            sums[document] = sums.get(document, 0) + Fraction(weight, 5 + rank)
    expected = sorted(sums, key=lambda d: (-sums[d], d))[:k]
    scores, ids = reciprocal_rank_fusion([padded(r) for r in found], k, weights)
    assert list(ids[0][: len(expected)]) == expected
    np.testing.assert_allclose(scores[0][: len(expected)], [float(sums[d]) for d in expected], rtol=1e-6)
    assert (ids[0][len(expected) :] == -1).all()
    assert (scores[0][len(expected) :] == -np.inf).all()
    assert (scores.dtype, ids.dtype) == (np.float32, np.int64)


def test_what_both_rank_well_is_above_what_one_ranks_first():
    _, ids = reciprocal_rank_fusion([padded([1, 2, 3]), padded([4, 2, 5])], k=3)
    assert list(ids[0]) == [2, 1, 3]
    _, ids = reciprocal_rank_fusion([padded([1, 2, 3]), padded([4, 2, 5])], k=3, weights=(1, 1))
    assert list(ids[0]) == [2, 1, 4]


def test_no_queries_give_no_rows():
    scores, ids = reciprocal_rank_fusion([np.empty((0, 5), np.int64)] * 2, k=3)
    assert scores.shape == ids.shape == (0, 3)
