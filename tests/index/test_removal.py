"""Vectors that are removed or replaced are never found again, and the others are found as before."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_search import assert_found, hits_of, index_of, vectors_of

from care_accel import CareError, ExactIndex, _native
from care_accel.index import Shards

INSTRUCTION_SETS = _native.instruction_sets()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("count", [1, 7])
def test_removed_vectors_are_not_found_and_the_others_keep_their_ids(share, count):
    vectors, queries = vectors_of(3_001), vectors_of(count, seed=1)
    mask = np.random.default_rng(2).random(3_001) >= share
    for int4 in (False, True):
        index = index_of(vectors, int4)
        assert index.remove(np.flatnonzero(~mask)) == (~mask).sum()
        assert (len(index), index.alive) == (3_001, mask.sum())
        np.testing.assert_array_equal(index.removed, ~mask)
        for k in (1, 40):
            assert_found(index, vectors, mask, queries, k)
        assert_found(index, vectors, mask, queries[:, :3], 9, width=3)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 400),
    removed=st.lists(st.integers(0, 399), max_size=500),
    subset=st.lists(st.integers(0, 399), max_size=60) | st.none(),
    k=st.integers(1, 30),
    count=st.sampled_from([1, 3, 8]),
)
def test_any_removal_and_any_subset_leave_the_rest(rows, removed, subset, k, count):
    vectors = vectors_of(rows, seed=rows)
    index = index_of(vectors, int4=True)
    mask = np.ones(rows, bool)
    ids = [i % rows for i in removed]
    mask[ids] = False
    assert index.remove(ids) == (~mask).sum()
    assert index.remove(ids) == 0
    options = {}
    if subset is not None:
        options["subset"] = [i % rows for i in subset]
        chosen = np.zeros(rows, bool)
        chosen[options["subset"]] = True
        mask &= chosen
    assert_found(index, vectors, mask, vectors_of(count, seed=1), k, **options)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("share", [0.001, 0.03, 0.5])
def test_the_best_vectors_do_not_prune_while_they_are_removed(instruction_set, share):
    # Removed vectors have far better scores than the others: a threshold from one of them would prune all hits.
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((30_000, 24)).astype(np.float32)
    mask = rng.random(30_000) < share
    vectors[~mask, 0] += 100
    vectors[mask, 0] -= np.arange(mask.sum(), dtype=np.float32) / 1e3
    index = index_of(vectors, int4=True)
    index.remove(np.flatnonzero(~mask))
    part = index._parts[0]
    queries = np.zeros((9, 24), np.float32)
    queries[:, 0] = np.arange(1, 10)
    for count in (1, 9):
        for threads in (1, 3):
            ids = _native.search(
                part.vectors,
                **part.codes.search_arguments(),
                queries=queries[:count],
                k=5,
                threads=threads,
                allowed=part.alive,
                instruction_set=instruction_set,
            )[1]
            alive = np.flatnonzero(mask)
            expected = alive[np.lexsort((alive, -vectors[alive, 0].astype(np.float64)))][:5]
            assert ids.tolist() == [expected.tolist()] * count


def test_new_vectors_are_alive_after_removals():
    vectors = vectors_of(45)
    index, mask = ExactIndex(6), np.ones(45, bool)
    for start, end in ((0, 3), (3, 17), (17, 32), (32, 33), (33, 45)):
        index.add(vectors[start:end])
        index.remove([start])
        mask[start] = False
        np.testing.assert_array_equal(index.removed, ~mask[:end])
        assert_found(index, vectors[:end], mask[:end], vectors_of(2, seed=1), 50)


def test_a_replacement_has_new_ids():
    vectors, new = vectors_of(20), vectors_of(3, seed=1)
    index = index_of(vectors)
    ids = index.replace([4, 2, 4], new)
    assert (ids.dtype, ids.tolist()) == (np.int64, [20, 21, 22])
    assert (len(index), index.alive) == (23, 21)
    assert np.flatnonzero(index.removed).tolist() == [2, 4]
    assert_found(index, np.concatenate([vectors, new]), ~index.removed, vectors_of(4, seed=2), 23)
    assert index.replace([], new[:0]).tolist() == []
    assert index.replace([0], new[:0]).tolist() == []
    assert index.alive == 20


def test_compaction_drops_what_is_removed_and_tells_the_old_ids():
    vectors = vectors_of(50)
    index = index_of(vectors)
    index.remove([0, 49, 20])
    old = index.compact()
    assert (old.dtype, old.tolist()) == (np.int64, [i for i in range(50) if i not in (0, 20, 49)])
    assert (len(index), index.alive, index.removed.any()) == (47, 47, False)
    np.testing.assert_array_equal(index.vectors, vectors[old])
    assert_found(index, vectors[old], np.ones(47, bool), vectors_of(3, seed=1), 9)
    assert index.compact().tolist() == list(range(47))
    index.remove(range(47))
    assert index.compact().tolist() == []
    assert index.search(vectors[0], k=1)[1].tolist() == [-1]
    index.add(vectors)
    assert_found(index, vectors, np.ones(50, bool), vectors_of(3, seed=1), 9)


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([0, 5], "ids contains id 5; the index has 5 vectors"),
        ([-1], "ids contains id -1"),
        ([0.5], r"ids is float64 \[1\]; it must be integers"),
        ([True, False, True, False, True], "ids is bool"),
        ([[1]], r"ids is int64 \[1, 1\]"),
        ("all", "ids is <U3"),
    ],
)
def test_what_cannot_be_removed_is_refused_and_nothing_changes(ids, words):
    index = index_of(vectors_of(5))
    for change in (lambda: index.remove(ids), lambda: index.replace(ids, vectors_of(1))):
        with pytest.raises(CareError, match=words) as error:
            change()
        assert "\n" not in str(error.value)
    assert (len(index), index.alive) == (5, 5)


def test_a_replacement_that_fails_changes_nothing(monkeypatch):
    index = index_of(vectors_of(30))
    expected = index.search(vectors_of(3, seed=1), k=30)
    with pytest.raises(CareError, match="vectors: row 0"):
        index.replace([1], np.full((1, 6), np.nan, np.float32))

    def no_memory(*_, **__):
        raise MemoryError

    for rows in (1, 90):  # the second has the codes computed again with another mean
        with monkeypatch.context() as patched:
            patched.setattr("care_accel.index.codes._native.encode", no_memory)
            with pytest.raises(MemoryError):
                index.replace([1], vectors_of(rows))
        assert (len(index), index.alive) == (30, 30)
        for ours, theirs in zip(index.search(vectors_of(3, seed=1), k=30), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    index.replace([1], vectors_of(2, seed=9))
    vectors = np.concatenate([vectors_of(30), vectors_of(2, seed=9)])
    assert_found(index, vectors, np.arange(32) != 1, vectors_of(3, seed=1), 32)


def test_the_mask_of_removed_vectors_is_read_only():
    index = index_of(vectors_of(5))
    with pytest.raises(ValueError, match="read-only"):
        index.removed[0] = True


def test_shards_do_not_find_what_is_removed_from_them():
    vectors = vectors_of(300)
    shards = Shards([index_of(vectors[:100]), index_of(vectors[100:])])
    mask = np.random.default_rng(1).random(300) < 0.5
    shards.indexes[0].remove(np.flatnonzero(~mask[:100]))
    shards.indexes[1].remove(np.flatnonzero(~mask[100:]))
    queries = vectors_of(3, seed=1)
    ids = shards.search(queries, k=20)[1]
    assert ids.tolist() == [hits_of(vectors, query, 20, mask)[1].tolist() for query in queries]
    subset = np.arange(0, 300, 3)
    chosen = np.isin(np.arange(300), subset) & mask
    ids = shards.search(queries, k=20, subset=subset)[1]
    assert ids.tolist() == [hits_of(vectors, query, 20, chosen)[1].tolist() for query in queries]


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("width", [1, 7, 8, 67])
def test_a_few_vectors_are_scored_as_in_a_scan(instruction_set, width):
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((6_000, width)) * 10.0 ** rng.integers(-9, 9, (6_000, 1))).astype(
        np.float32
    )
    vectors[3_000:3_100] = vectors[:100]
    index = index_of(vectors, int4=True)
    index.remove(range(0, 6_000, 7))
    part = index._parts[0]
    for rows in (0, 1, 3, 4, 5, 299, 6_000):
        mask = np.zeros(6_000, bool)
        mask[rng.permutation(6_000)[:rows]] = True
        mask &= ~index.removed
        queries = rng.standard_normal((rng.integers(1, 20), width)).astype(np.float32)
        for asked, threads in ((queries, 1), (queries[:, : (width + 1) // 2], 3)):
            asked = np.ascontiguousarray(asked)
            expected = _native.search(
                part.vectors,
                **part.codes.arguments(),
                queries=asked,
                k=9,
                threads=threads,
                allowed=part.allowed(mask),
                instruction_set=instruction_set,
            )
            found = _native.search_rows(
                part.vectors,
                np.flatnonzero(mask),
                queries=asked,
                k=9,
                threads=threads,
                instruction_set=instruction_set,
            )
            for ours, theirs in zip(found, expected, strict=False):
                np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("share", [0.002, 0.05, 0.051, 0.3])
def test_small_and_large_subsets_are_searched_in_all_parts(tmp_path, share):
    vectors = vectors_of(3_000)
    index = index_of(vectors[:2_000])
    index.save(tmp_path / "index")
    index.add(vectors[2_000:2_900])
    index.save(tmp_path / "index")
    index.add(vectors[2_900:])
    assert len(index._parts) == 3
    index.remove(range(0, 3_000, 5))
    chosen = np.zeros(3_000, bool)
    ids = np.random.default_rng(3).permutation(3_000)[: round(3_000 * share)]
    chosen[ids] = True
    for subset in (chosen, ids, np.concatenate([ids, ids])):
        for count in (1, 9):
            queries = vectors_of(count, seed=1)
            assert_found(index, vectors, chosen & ~index.removed, queries, 30, subset=subset)


def test_rows_that_do_not_exist_are_refused_by_the_native_part():
    vectors = vectors_of(5)
    for rows in ([5], [-1]):
        with pytest.raises(ValueError, match="rows must be rows of the vectors"):
            _native.search_rows(vectors, np.array(rows), queries=vectors, k=1, threads=1)
