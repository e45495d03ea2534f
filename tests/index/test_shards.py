import numpy as np
import pytest

from care_accel import CareError, ExactIndex
from care_accel.index import Shards


def index_of(vectors, **options):
    index = ExactIndex(vectors.shape[1], **options)
    index.add(vectors)
    return index


def sharded(vectors, *cuts):
    return Shards([index_of(part) for part in np.split(vectors, cuts)])


@pytest.fixture(scope="module")
def vectors():
    # Few different values, so that equal scores come from several shards.
    return np.random.default_rng(0).integers(-2, 3, (900, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def queries():
    return np.random.default_rng(1).integers(-2, 3, (7, 6)).astype(np.float32)


@pytest.mark.parametrize("cuts", [(), (1,), (450,), (0, 17, 17, 899), (900,)])
@pytest.mark.parametrize("k", [1, 40, 901])
def test_shards_give_the_hits_of_one_index(vectors, queries, cuts, k):
    whole, shards = index_of(vectors), sharded(vectors, *cuts)
    assert (len(shards), shards.width) == (900, 6)
    for ours, theirs in zip(shards.search(queries, k=k), whole.search(queries, k=k), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(shards.search(queries[0], k=k)[1], whole.search(queries[0], k=k)[1])


def test_scores_that_float32_cannot_tell_apart_are_merged_in_their_order():
    near = np.array([[1.0, 0.0], [1.0, 2.0**-15]], dtype=np.float32)
    query = np.array([1.0, 2.0**-15], dtype=np.float32)
    assert list(sharded(near, 1).search(query, k=2)[1]) == [1, 0]


def test_a_prefix_and_a_subset_are_those_of_one_index(vectors, queries):
    whole, shards = index_of(vectors), sharded(vectors, 100, 130)
    mask = np.random.default_rng(2).random(900) < 0.2
    for subset in (mask, np.flatnonzero(mask)[::-1]):
        for ours, theirs in zip(
            shards.search(queries, k=5, width=3, subset=subset),
            whole.search(queries, k=5, width=3, subset=subset),
            strict=True,
        ):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("indexes", "words"),
    [
        ([], "no index was given"),
        ([ExactIndex(2), ExactIndex(3)], "differ in width: 2 and 3"),
        ([ExactIndex(2, encoder_revision="a"), ExactIndex(2)], "differ in encoder_revision: a and None"),
        ([ExactIndex(2, order="slice-then-normalize"), ExactIndex(2)], "differ in order"),
    ],
)
def test_indexes_that_are_no_shards_of_one_are_refused(indexes, words):
    with pytest.raises(CareError, match=words):
        Shards(indexes)


def test_a_wrong_search_is_refused(vectors, queries):
    with pytest.raises(CareError, match="k is 0"):
        sharded(vectors, 3).search(queries, k=0)
    with pytest.raises(CareError, match="id 900; the index has 900 vectors"):
        sharded(vectors, 3).search(queries, subset=[900])
