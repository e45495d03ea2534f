import numpy as np
import pytest
from planted_vectors import clustered

from care_accel import ExactIndex
from care_accel.index.approximate import lists
from care_accel.index.approximate.lists import TooSlowError, find_lists

VECTORS = clustered(3000, 0)


@pytest.fixture
def scanned(monkeypatch):
    """Numbers of vectors that are scanned for their nearest centre, each of which takes a millisecond; nothing else takes time."""
    rows = []

    class Slow(ExactIndex):
        def search(self, queries, *arguments):
            rows.append(len(queries))
            return super().search(queries, *arguments)

    monkeypatch.setattr(lists, "ExactIndex", Slow)
    monkeypatch.setattr(lists, "perf_counter", lambda: 1e-3 * sum(rows))
    return rows


def test_each_vector_is_in_the_list_of_its_nearest_centre():
    found = find_lists(20, VECTORS, 60, seed=0)
    assert found.centres.shape == (20, VECTORS.shape[1])
    np.testing.assert_allclose(np.linalg.norm(found.centres, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(found.places, (VECTORS @ found.centres.T).argmax(axis=1))
    # Vectors are closer to their centres than to others drawn at random: these have moved.
    drawn = VECTORS[np.random.default_rng(0).choice(len(VECTORS), 20, replace=False)]
    own = (VECTORS @ found.centres.T).max(axis=1).mean()
    assert own > (VECTORS @ drawn.T).max(axis=1).mean()


def test_centres_are_as_good_as_those_of_all_products(monkeypatch):
    def mean_product(found):
        return np.einsum("ij,ij->i", VECTORS, found.centres[found.places]).mean()

    monkeypatch.setattr(lists, "_NEAR", 200)
    everywhere = mean_product(find_lists(200, VECTORS, 60, seed=0))
    monkeypatch.setattr(lists, "_NEAR", 20)
    assert mean_product(find_lists(200, VECTORS, 60, seed=0)) == pytest.approx(everywhere, rel=5e-3)


def test_lists_depend_on_the_seed_and_not_on_the_threads():
    one, other = (find_lists(20, VECTORS, 60, seed=1, threads=threads) for threads in (1, 2))
    np.testing.assert_array_equal(one.centres, other.centres)
    np.testing.assert_array_equal(one.places, other.places)
    assert (find_lists(20, VECTORS, 60, seed=2).centres != one.centres).any()


def test_no_list_stays_empty_while_another_has_different_vectors():
    # Nine in ten vectors are the same one, so most of the first centres are, too.
    vectors = VECTORS.copy()
    vectors[np.arange(len(vectors)) % 10 > 0] = vectors[0]
    found = find_lists(20, vectors, 60, seed=0)
    assert len(np.unique(found.places)) > 10


@pytest.mark.parametrize("length", [1e-30, 1e25])
def test_centres_have_directions_whatever_the_length_of_the_vectors(length):
    found = find_lists(20, VECTORS * np.float32(length), 60, seed=0)
    np.testing.assert_allclose(np.linalg.norm(found.centres, axis=1), 1, rtol=1e-6)


def test_vectors_of_zeros_are_in_some_list():
    found = find_lists(5, np.zeros((500, 8), dtype=np.float32), 60, seed=0)
    assert np.isfinite(found.centres).all()
    assert set(found.places.tolist()) <= set(range(5))


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (60, [160, 160, 640, 2560, 3000]),
        # More vectors a list would take more than half of the time, or all of it.
        (15, [160, 160, 640, 3000]),
        (4, [160, 160, 3000]),
    ],
)
def test_fewer_vectors_find_the_centres_where_more_would_take_long(scanned, seconds, expected):
    find_lists(10, VECTORS, seconds, seed=0)
    assert scanned == expected


def test_lists_that_would_take_too_long_are_given_up_after_the_first_scan(scanned):
    with pytest.raises(TooSlowError, match="would take some 4 s to build"):
        find_lists(10, VECTORS, 3, seed=0)
    assert scanned == [160]


def test_a_scan_that_becomes_slow_is_ended(scanned, monkeypatch):
    monkeypatch.setattr(lists, "_SCANNED", 500)
    real, calls = lists.ExactIndex.search, []

    def search(self, queries, *arguments):
        calls.append(len(queries))
        if len(calls) > 3:
            scanned.append(5000)  # as long as so many
        return real(self, queries, *arguments)

    monkeypatch.setattr(lists.ExactIndex, "search", search)
    with pytest.raises(TooSlowError):
        find_lists(10, VECTORS, 4, seed=0)
    assert calls == [160, 160, 500, 500]
