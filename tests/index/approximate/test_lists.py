import numpy as np
import pytest
from planted_vectors import clustered

from care_accel.index.approximate import lists
from care_accel.index.approximate.lists import TooSlowError, find_lists

VECTORS = clustered(3000, 0)


class Clock:
    """Each look at it takes a millisecond."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        self.seconds += 1e-3
        return self.seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(lists, "perf_counter", clock)
    return clock


def test_each_vector_is_in_the_list_of_its_nearest_centre():
    found = find_lists(20, VECTORS, 60, seed=0)
    assert found.centres.shape == (20, VECTORS.shape[1])
    np.testing.assert_array_equal(found.places, (VECTORS @ found.centres.T).argmax(axis=1))
    # Vectors are closer to their centres than to others drawn at random: k-means has moved these.
    drawn = VECTORS[np.random.default_rng(0).choice(len(VECTORS), 20, replace=False)]
    own = (VECTORS @ found.centres.T).max(axis=1).mean()
    assert own > (VECTORS @ drawn.T).max(axis=1).mean()


def test_fewer_vectors_find_the_centres_where_all_would_take_long(clock):
    rate = 1e-3 / 2048**2
    everything = rate * 10 * (lists._ITERATIONS * 256 * 10 + 3000)
    fewest = rate * 10 * (lists._FEWEST_ITERATIONS * 64 * 10 + 3000)
    assert lists._points_per_list(10, VECTORS, 4.01 * everything) == 256
    assert lists._points_per_list(10, VECTORS, 1.01 * fewest) == 64
    with pytest.raises(TooSlowError, match="would take some"):
        lists._points_per_list(10, VECTORS, 0.99 * fewest)


def test_what_takes_longer_than_was_estimated_is_ended_after_the_fewest_iterations_or_given_up(
    clock, monkeypatch
):
    import faiss

    monkeypatch.setattr(lists, "_points_per_list", lambda *_: 256)
    iterations = []
    real = faiss.Clustering.train

    def slow(self, *arguments):
        iterations.append(1)
        clock.seconds += 1.0
        return real(self, *arguments)

    monkeypatch.setattr(faiss.Clustering, "train", slow)
    # All vectors are clustered, so putting them into lists takes as long as an iteration.
    for seconds, expected in ((60, 10), (7.5, 6), (5.5, 4)):
        iterations.clear()
        find_lists(10, VECTORS, seconds, seed=0)
        assert len(iterations) == expected
    iterations.clear()
    with pytest.raises(TooSlowError, match="would take some 5 s to build"):
        find_lists(10, VECTORS, 4.5, seed=0)
    assert len(iterations) == 1
