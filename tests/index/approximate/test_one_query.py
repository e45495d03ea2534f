from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_vectors import ROWS, WIDTH, clustered

from care_accel import ApproximateIndex, ExactIndex, _native
from care_accel.index.approximate import family
from care_accel.index.approximate.family import Kind
from care_accel.index.approximate.finder import Finder
from care_accel.index.store import Stored

VECTORS, QUERIES = clustered(ROWS, 0), clustered(60, 1)


@pytest.fixture(scope="module")
def lists():
    return {}


@pytest.fixture(scope="module", params=["Flat", "RaBitQ", "graph"])
def structure(request, lists):
    kind = Kind(8, 0, "SQ8") if request.param == "graph" else Kind(0, 60, request.param)
    return family.build(kind, VECTORS, seconds=60, seed=0, threads=1, lists=lists)


@given(data=st.data())
def test_candidates_are_scored_as_rows_are(data):
    count = data.draw(st.integers(1, 90), "vectors")
    vectors = VECTORS[:count]
    alive = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count), "alive"))
    ids = np.array(data.draw(st.permutations(range(count)), "ids"))
    ids[data.draw(st.lists(st.integers(0, count - 1)), "gone")] = -1
    # In any order, each once, with some that were not found between.
    rows = data.draw(st.lists(st.integers(0, count - 1), unique=True), "rows") + [-1] * data.draw(
        st.integers(0, 3), "none"
    )
    rows = np.array(data.draw(st.permutations(rows), "order"), dtype=np.int64)
    k = data.draw(st.integers(1, 20), "k")
    bits = np.packbits(np.pad(alive, (0, -count % 16)), bitorder="little").view(np.uint16)
    found = _native.search_candidates(vectors, rows, QUERIES[:1], k, ids, bits)
    named = ids[rows[rows >= 0]]
    expected = np.sort(named[(named >= 0) & alive[named]])
    scores, best = _native.search_rows(vectors, expected, queries=QUERIES[:1], k=k, threads=1)
    np.testing.assert_array_equal(found[0], scores)
    np.testing.assert_array_equal(found[1], best)
    assert found[2].tolist() == [len(expected)]


@pytest.mark.parametrize(
    ("rows", "ids", "message"),
    [
        ([ROWS], None, "rows of the vectors"),
        ([2], [0, 1], "must have ids"),
        ([1], [0, ROWS], "rows of the vectors"),
    ],
)
def test_candidates_that_do_not_exist_are_refused(rows, ids, message):
    with pytest.raises(ValueError, match=message):
        _native.search_candidates(
            VECTORS, np.array(rows), QUERIES[:1], 3, ids if ids is None else np.array(ids)
        )


@pytest.mark.parametrize(
    "query",
    [
        [0.0] * WIDTH,
        QUERIES[:2],
        QUERIES[0, 1:],
        QUERIES[:1].astype(np.float16),
        QUERIES[:1].astype(">f4"),
        QUERIES[0, ::-1],
        np.full(WIDTH, np.nan, dtype=np.float32),
        np.full(WIDTH, -np.inf, dtype=np.float32),
        QUERIES[0].reshape(2, -1),
        QUERIES[:1, np.newaxis],
        np.float32(1),
        None,
    ],
)
def test_only_a_query_that_needs_no_conversion_is_copied(query):
    into = np.zeros((1, WIDTH), dtype=np.float32)
    assert not _native.copied(query, into)
    assert not into.any()


@pytest.mark.parametrize("query", [QUERIES[0], QUERIES[:1]])
def test_a_row_is_copied(query):
    into = np.zeros((1, WIDTH), dtype=np.float32)
    assert _native.copied(query, into)
    np.testing.assert_array_equal(into[0], QUERIES[0])


def made(structure, value, k, candidates):
    """Return an index that searches by a structure, and the exact index of the same vectors."""
    exact = ExactIndex(WIDTH, threads=1)
    exact.add(VECTORS)
    choice = ApproximateIndex.build(VECTORS[:100], queries=QUERIES).choice
    choice = replace(choice, name=structure.name, vectors=ROWS, value=value, candidates=candidates, k=k)
    stored = Stored(exact._parts, WIDTH, exact.order, None)
    finder = Finder(structure, value, candidates)
    return ApproximateIndex(stored, ROWS, choice, finder, device="cpu", threads=1), exact


def test_whatever_a_query_looks_like_its_hits_are_those_of_a_batch(structure):
    index, _ = made(structure, 20, 10, 40)
    scores, ids = index.search(QUERIES, 10)
    for query, own_scores, own_ids in zip(QUERIES, scores, ids, strict=True):
        strided = np.repeat(query, 2)[::2]
        for form in (query, strided, query.tolist()):
            found = index.search(form, 10)
            np.testing.assert_array_equal(found[0], own_scores)
            np.testing.assert_array_equal(found[1], own_ids)
        found = index.search_in_float64(query[np.newaxis], np.int64(10))
        np.testing.assert_array_equal(found[1][0], own_ids)
        assert found[2].tolist() == index.search(query, 10, return_stats=True)[2].rescored.reshape(1).tolist()


def test_what_lists_are_too_short_for_is_scanned(lists):
    structure = family.build(Kind(0, 60, "Flat"), VECTORS, seconds=60, seed=0, threads=1, lists=lists)
    index, exact = made(structure, 1, 300, 302)
    sizes = np.bincount(lists[60].places)
    assert (sizes < 300).any()
    for query in QUERIES:
        ids = index.search(query, 300)[1]
        assert (ids >= 0).all()
        if structure.index.quantizer.search(query[np.newaxis], 1)[1].item() in np.flatnonzero(sizes < 300):
            np.testing.assert_array_equal(ids, exact.search(query, 300)[1])


def test_threads_that_search_at_once_do_not_share_memory(structure):
    index, _ = made(structure, 20, 10, 40)
    expected = [index.search(query, 10)[1].tolist() for query in QUERIES]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(
            lambda place: index.search(QUERIES[place % len(QUERIES)], 10)[1].tolist(), range(600)
        )
        assert list(found) == expected * 10


def test_what_is_removed_is_not_found_by_one_query(structure):
    index, exact = made(structure, 60, 10, 200)
    index._state = replace(index._state, choice=replace(index.choice, least_alive=0.5))
    first = int(index.search(QUERIES[0], 1)[1].item())
    index.remove([first])
    exact.remove([first])
    assert index._state.find_one(QUERIES[0], 10) is not None
    for query in QUERIES:
        scores, ids = index.search(query, 10)
        assert first not in ids
        known = dict(zip(*reversed(exact.search(query, ROWS - 1)), strict=True))
        assert [known[one] for one in ids] == scores.tolist()


def test_what_is_added_is_found_by_one_query(structure):
    index, _ = made(structure, 60, 10, 200)
    index.add(QUERIES[:1] * 2)
    assert index.search(QUERIES[0], 1)[1].item() == ROWS
