"""An index that is built again in the background: what changes meanwhile is not lost, and searches go on."""

import threading
from concurrent.futures import Future

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_vectors import ROWS, WIDTH, change_or_save, clustered

from care_accel import ApproximateIndex, CareError, ExactIndex
from care_accel.index.approximate import approximate_index

QUERIES = clustered(12, 5)


def require_hits_of(index, exact):
    """Whatever is found has the exact score, and nothing is found that is not there."""
    assert (len(index), index.alive) == (len(exact), exact.alive)
    np.testing.assert_array_equal(index.removed, exact.removed)
    np.testing.assert_array_equal(index.vectors, exact.vectors)
    every, order = exact.search_in_float64(QUERIES, len(exact))[:2]
    for row in range(len(QUERIES)):
        scores, ids = (found[0] for found in index.search_in_float64(QUERIES[row : row + 1], 10)[:2])
        known = dict(zip(order[row].tolist(), every[row].tolist(), strict=True))
        assert [known[i] for i in ids.tolist()] == scores.tolist()
        assert len(set(ids.tolist())) == 10
    # As is a deeper search, which is an exact scan.
    np.testing.assert_array_equal(index.search(QUERIES, 11)[1], exact.search(QUERIES, 11)[1])


@pytest.fixture(scope="module")
def grown(build, tmp_path_factory):
    """Return the folder of an index that has grown, and the same built again."""
    index = build()
    index.add(clustered(ROWS // 4, 3))
    index.remove(np.arange(0, ROWS, 5))
    folder = tmp_path_factory.mktemp("grown") / "index"
    index.save(folder)
    return folder, index.rebuild(queries=clustered(900, 1))


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_what_changes_during_a_rebuild_is_in_the_rebuilt_index(data, grown):
    folder, again = grown
    index = ApproximateIndex.load(folder)
    index._state = index._state.fixing()
    exact = ExactIndex(WIDTH)
    exact.add(index.vectors)
    exact.remove(np.flatnonzero(index.removed))
    for _ in range(data.draw(st.integers(0, 4))):
        if change_or_save(data, index, exact, 900):
            index.save(folder.parent / "again")
    index._take(again)
    assert (index.choice, index._state.built) == (again.choice, len(again))
    index.add(clustered(3, 1))
    exact.add(clustered(3, 1))
    require_hits_of(index, exact)
    index.save(folder.parent / "again")
    require_hits_of(ApproximateIndex.load(folder.parent / "again"), exact)


@pytest.fixture
def held(monkeypatch):
    """Return an event, and a function after which builds wait for it."""
    go, real = threading.Event(), approximate_index.build

    def build(*arguments):
        assert go.wait(60)
        return real(*arguments)

    yield go, lambda: monkeypatch.setattr(approximate_index, "build", build)
    go.set()


def test_searches_and_changes_go_on_while_it_is_built_again_in_the_background(build, held):
    go, hold = held
    index = build()
    index.add(clustered(ROWS // 4, 3))
    assert index.stale
    watch, before = index.watch(every=1), index.choice
    hold()
    rebuilt = index.rebuild(queries=clustered(900, 1), background=True)
    assert isinstance(rebuilt, Future)
    assert index.rebuild(background=True) is rebuilt
    best = index.search(QUERIES[:1], 5)[1][0]
    watch.wait()
    assert index.observed.queries == 1
    index.remove(best)
    index.add(QUERIES[:1])
    assert not rebuilt.done()
    assert index.choice is before
    go.set()
    assert rebuilt.result(300) is index.choice
    assert index.choice.vectors == ROWS + ROWS // 4
    assert not index.stale
    found = index.search(QUERIES[:1], 10)[1][0].tolist()
    assert found[0] == ROWS + ROWS // 4
    assert not set(best.tolist()) & set(found)
    watch.wait()
    assert index.observed.queries <= 1  # of the new structure, if it finds fewer than all


def test_a_rebuild_that_fails_leaves_the_index_as_it_is(build):
    index = build()
    before = index.choice
    failed = index.rebuild(queries=clustered(20, 1), background=True)
    with pytest.raises(CareError, match="20 queries cannot prove"):
        failed.result(300)
    assert index.choice is before
    again = index.rebuild(queries=clustered(20, 1), background=True)
    assert again is not failed
    assert isinstance(again.exception(300), CareError)
    index.add(QUERIES[:1])
    assert index.search(QUERIES[0], 1)[1].tolist() == [ROWS]
