import numpy as np
import pytest
from planted_vectors import ROWS, clustered

from care_accel import ExactIndex
from care_accel.index.approximate import family
from care_accel.index.approximate.family import Kind
from care_accel.index.approximate.finder import Finder

VECTORS = clustered(ROWS, 0)
QUERIES = clustered(40, 1)


@pytest.fixture(scope="module")
def structure():
    return family.build(Kind(0, 20, "SQ8"), VECTORS, seconds=60, seed=0, threads=1, lists={})


@pytest.mark.parametrize("reversed_ids", [False, True])
def test_ranks_tell_what_fewer_candidates_find(structure, reversed_ids):
    ids = np.arange(ROWS)[::-1].copy() if reversed_ids else None
    index = ExactIndex(VECTORS.shape[1])
    index.add(VECTORS[::-1] if reversed_ids else VECTORS)
    scores, ranks = Finder(structure, 4, 200, ids).ranked(index._parts, QUERIES, 10, 1)
    for count in (20, 50, 200):
        expected = Finder(structure, 4, count, ids).find(index._parts, QUERIES, 10, 1)[0]
        fewer = np.sort(np.where(ranks < count, scores, -np.inf), axis=1)[:, ::-1]
        # What is among the first so many candidates of the k best of all candidates is found; other hits of theirs are worse.
        found = np.isfinite(fewer)
        np.testing.assert_array_equal(fewer[found], expected[found])
        assert count < 200 or found.all()


def test_candidates_that_are_not_there_have_no_rank(structure):
    index = ExactIndex(VECTORS.shape[1])
    index.add(VECTORS)
    scores, ranks = Finder(structure, 1, 2000).ranked(index._parts, QUERIES, 1000, 1)
    none = ~np.isfinite(scores)
    assert none.any()
    assert (~none).any()
    assert (ranks[~none] < 2000).all()
