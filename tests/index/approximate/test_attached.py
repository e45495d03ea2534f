"""A structure in an index that has changed since: hits, the promise, and what is scanned exactly."""

import numpy as np
import pytest
from planted_vectors import ROWS, WIDTH, clustered

from care_accel import ExactIndex
from care_accel.index.approximate import RecallWatch
from care_accel.index.approximate.attached import AttachedIndex
from care_accel.index.approximate.recall import recalls, upper_bound


@pytest.fixture(scope="module", params=["IVF32,Flat", "HNSW16,SQ8"])
def built(build, request):
    return build(family=[request.param])


def moved(built, order, added=0, removed=()):
    """Return another index that has some vectors of the first in another order, and more in between, and the structure in it."""
    exact = ExactIndex(WIDTH, threads=1)
    old = np.concatenate([order, np.full(added, -1)])
    old = old[np.random.default_rng(4).permutation(len(old))] if added else old
    rows = clustered(len(old), 71)
    rows[old >= 0] = built.vectors[old[old >= 0]]
    half = len(rows) // 2
    exact.add(rows[:half])
    exact.remove([i for i in removed if i < half])
    exact.add(rows[half:])
    positions = np.full(ROWS, -1)
    positions[old[old >= 0]] = np.flatnonzero(old >= 0)
    watch = RecallWatch(1)
    return AttachedIndex(exact, built.finder, positions, built.choice, watch), exact, watch


def require_real_hits(attached, exact, queries, k, **options):
    """Every hit has its exact score, is there once, and as many come as there are; return the recall of each query."""
    observed = []
    for row in range(len(queries)):
        query = queries[row : row + 1]
        (scores,), (ids,), _ = attached.search_in_float64(query, k, **options)
        options_of_exact = {name: value for name, value in options.items() if name == "subset"}
        every, order, _ = exact.search_in_float64(query, len(exact), **options_of_exact)
        known = dict(zip(order[0].tolist(), every[0].tolist(), strict=True))
        assert [known[i] for i in ids[ids >= 0].tolist()] == scores[ids >= 0].tolist()
        assert len(set(ids[ids >= 0].tolist())) == (ids >= 0).sum() == min(k, (order[0] >= 0).sum())
        assert sorted(zip((-scores).tolist(), ids.tolist(), strict=True)) == list(
            zip((-scores).tolist(), ids.tolist(), strict=True)
        )
        observed.append(recalls(scores[np.newaxis], every[:, :k])[0])
    return np.array(observed)


def test_vectors_in_another_order_are_found_with_the_same_recall(built):
    queries = clustered(150, 6)
    attached, exact, watch = moved(built, np.random.default_rng(1).permutation(ROWS))
    observed = require_real_hits(attached, exact, queries, 10)
    assert (attached.beside, attached.stale) == (0, False)
    assert observed.mean() < 1
    assert upper_bound(observed, 0.01) >= 0.95
    watch.wait()
    assert watch.observed is not None


def test_vectors_that_are_not_in_the_structure_are_found_exactly(built):
    # The positions of the structure move apart, so that no part is without one.
    attached, exact, _ = moved(built, np.arange(ROWS), added=200, removed=range(0, 60, 2))
    queries = clustered(80, 7)
    assert upper_bound(require_real_hits(attached, exact, queries, 10), 0.01) >= 0.95
    own = np.setdiff1d(np.arange(len(exact)), attached._finder.ids)
    for position in own[own >= 60]:
        assert attached.search_in_float64(exact.vectors[position : position + 1], 3)[1][0, 0] == position
    assert not attached.stale
    assert attached.beside == len(own) - sum(i < 60 and i % 2 == 0 for i in own)


def test_a_part_that_was_added_is_scanned_whole(built):
    exact = ExactIndex(WIDTH, threads=1)
    exact.add(built.vectors)
    exact._parts = (exact._parts[0].saved({}),)  # as it is once it is on disk: nothing is joined with it
    exact.add(clustered(150, 13))
    assert len(exact._parts) == 2
    attached = AttachedIndex(exact, built.finder, np.arange(ROWS), built.choice)
    observed = require_real_hits(attached, exact, clustered(60, 8), 10)
    assert upper_bound(observed, 0.01) >= 0.95
    subset = np.random.default_rng(0).random(len(exact)) < 0.97
    require_real_hits(attached, exact, clustered(30, 9), 10, subset=subset)


@pytest.mark.parametrize("options", [{"k": 11}, {"k": 500, "promised": 10}, {"k": 5, "subset": "narrow"}])
def test_what_was_not_proven_is_scanned_exactly(built, options):
    attached, exact, watch = moved(built, np.arange(ROWS), added=50)
    query = clustered(1, 3)
    if "subset" in options:
        options = options | {"subset": np.arange(len(exact)) % 100 == 0}
    known = {name: value for name, value in options.items() if name != "promised"}
    for found, expected in zip(
        attached.search_in_float64(query, **options), exact.search_in_float64(query, **known), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    watch.wait()
    assert watch.observed is None


def test_hits_beyond_those_that_count_come_with_them(built):
    attached, exact, watch = moved(built, np.arange(ROWS))
    observed = require_real_hits(attached, exact, clustered(40, 12), 40, promised=10)
    assert observed.shape == (40,)
    watch.wait()
    assert watch.observed.recall >= observed.mean()


def test_an_index_without_vectors_is_searched_by_a_structure_of_others(built):
    exact = ExactIndex(WIDTH)
    attached = AttachedIndex(exact, built.finder, np.full(ROWS, -1), built.choice)
    assert (attached.beside, attached.stale) == (0, True)
    assert (
        attached.search_in_float64(clustered(2, 0), 3)[1] == exact.search_in_float64(clustered(2, 0), 3)[1]
    ).all()


def test_when_most_of_the_structure_is_gone_all_is_scanned_and_it_is_stale(built):
    attached, exact, watch = moved(built, np.arange(100), added=20)
    assert attached.stale
    assert (require_real_hits(attached, exact, clustered(20, 5), 10) == 1).all()
    watch.wait()
    assert watch.observed is None
