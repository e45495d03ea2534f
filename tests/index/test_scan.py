"""The scan against brute force with the defined scores: no hit may be missed, whatever the vectors are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_search import assert_exact, expected_hits, search

from care_accel import CareError, ExactIndex, _native

INSTRUCTION_SETS = _native.instruction_sets()


def index_of(vectors):
    index = ExactIndex(vectors.shape[1])
    index._parts[0].codes.int4_min_bytes = 0
    index.add(vectors)
    return index


def gaussian(rng, rows, width):
    return rng.standard_normal((rows, width))


def clustered(rng, rows, width):
    centres = rng.standard_normal((5, width))
    return centres[rng.integers(0, 5, rows)] + 1e-3 * rng.standard_normal((rows, width))


def one_direction(rng, rows, width):
    """Cosines of 0.6 to 0.9 with each other."""
    return 2 + rng.standard_normal((rows, width))


def outlying_values(rng, rows, width):
    vectors = rng.standard_normal((rows, width))
    vectors[:, : max(1, width // 20)] *= 1e4
    return vectors


def duplicates(rng, rows, width):
    return rng.standard_normal((3, width))[rng.integers(0, 3, rows)]


def nearly_equal(rng, rows, width):
    """Pruning by codes fails: the float32 pass has to find the hits."""
    return rng.standard_normal(width) * (1 + 1e-6 * rng.standard_normal((rows, width)))


def power_law(rng, rows, width):
    return rng.standard_normal((rows, width)) / np.arange(1, width + 1) + 0.3


def mixed_lengths(rng, rows, width):
    return rng.standard_normal((rows, width)) * 10.0 ** rng.integers(-12, 12, (rows, 1))


def zeros(rng, rows, width):
    vectors = rng.standard_normal((rows, width))
    vectors[rng.random(rows) < 0.7] = 0
    return vectors


def between_codes(rng, rows, width):
    """Every value lies in the middle between two codes: the error bounds are attained."""
    vectors = rng.integers(-63, 63, (rows, width)) + 0.5
    vectors[:, 0] = 127
    return vectors


def ascending(rng, rows, width):
    """Each vector is better than the one before, for a query of ones."""
    return np.sort(rng.standard_normal((rows, 1)), axis=0) + 1e-3 * rng.standard_normal((rows, width))


KINDS = [
    gaussian,
    clustered,
    one_direction,
    outlying_values,
    duplicates,
    nearly_equal,
    power_law,
    mixed_lengths,
    zeros,
    between_codes,
    ascending,
]


def made(kind, rows, width, seed=0, scale=1.0):
    return (kind(np.random.default_rng(seed), rows, width) * scale).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_no_hit_is_missed(kind, instruction_set):
    index = index_of(made(kind, 1203, 67))
    asked = np.concatenate([made(kind, 17, 67, seed=1), np.ones((1, 67), np.float32), index.vectors[:3]])
    for count, k in ((1, 1), (3, 10), (21, 10), (21, 400)):
        assert_exact(index, asked[-count:], k, instruction_set=instruction_set)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("width", [1, 3, 63, 64, 65, 768, 1024, 4096])
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 163])
def test_odd_sizes_are_scanned_whole(rows, width, instruction_set):
    index, queries = index_of(made(gaussian, rows, width)), made(gaussian, 9, width, seed=1)
    for count, k in ((1, 1), (5, 7), (9, rows), (9, rows + 3)):
        assert_exact(index, queries[:count], k, instruction_set=instruction_set)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("width", [30, 64, 65, 260, 768])
def test_one_query_uses_the_int4_codes(width, instruction_set):
    index, queries = index_of(made(power_law, 5000, width)), made(power_law, 12, width, seed=1)
    true = [search(index, query[np.newaxis], 1, int4=False)[1][0, 0] for query in queries]
    # What int4 codes prune is not scanned again: with scales and errors of 0 they prune true hits.
    index._parts[0].codes.int4.norms[:2] = 0
    options = {"instruction_set": instruction_set, "threads": 1}
    found = [search(index, query[np.newaxis], 1, **options)[1][0, 0] for query in queries]
    assert sum(a != b for a, b in zip(found, true, strict=True)) > 6
    # Several queries do not use them.
    assert list(search(index, queries, 1, **options)[1][:, 0]) == true
    # With infinite errors they prune nothing.
    index._parts[0].codes.int4.norms[1] = np.inf
    assert_exact(index, queries[:1], 1, instruction_set=instruction_set)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("width", [510, 768, 1030])
def test_residual_codes_refine_what_int4_codes_leave(width, instruction_set):
    index, queries = index_of(made(gaussian, 5000, width)), made(gaussian, 6, width, seed=1)
    codes = index._parts[0].codes.int4
    options = {"instruction_set": instruction_set, "threads": 1}
    # Residuals against the query, without an error of their own, prune true hits.
    codes.norms[2], missed = 0, 0
    for query in queries:
        against = np.where(np.pad(query, (0, 4 * codes.residuals.shape[1] - width)) > 0, 0, 3).reshape(4, -1)
        codes.residuals[:] = (against << [[0], [2], [4], [6]]).sum(axis=0)
        found, true = (
            search(index, query[np.newaxis], 1, int4=int4, **options)[1][0, 0] for int4 in (True, False)
        )
        missed += found != true
    assert missed > 3
    # Where they are no better than int4 codes, they are not used.
    for error in (codes.norms[1], np.inf, np.nan):
        codes.norms[2] = error
        assert_exact(index, queries[-1:], 10, **options)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_int4_codes_miss_no_hit_in_many_vectors(kind, instruction_set):
    index = index_of(made(kind, 20_011, 30))
    for query in np.concatenate([made(kind, 2, 30, seed=1), index.vectors[-1:]]):
        for k in (1, 10, 700):
            assert_exact(index, query[np.newaxis], k, instruction_set=instruction_set)


def test_int4_codes_grow_with_the_index():
    index = index_of(made(one_direction, 3000, 40))
    asked = made(one_direction, 1, 40, seed=1)
    for seed, rows in enumerate([1, 1, 14, 900, 7000]):
        index.add(made(one_direction, rows, 40, seed=seed + 2))
        assert index._parts[0].codes.int4.count == len(index)
        assert_exact(index, asked, 10)


def test_int4_codes_are_computed_again_with_a_new_mean():
    index = index_of(made(gaussian, 900, 24))
    index.add(made(gaussian, 2000, 24, seed=1, scale=1e30))
    assert index._parts[0].codes.int4.count == 2900
    assert_exact(index, made(gaussian, 1, 24, seed=2), 10)


def test_a_small_index_has_no_int4_codes():
    index = ExactIndex(40)
    index.add(made(gaussian, 2000, 40))
    assert index._parts[0].codes.int4 is None


def test_one_query_of_a_prefix_or_a_subset_finds_the_same():
    index = index_of(made(power_law, 9000, 70))
    query = made(power_law, 1, 70, seed=1)
    assert_exact(index, np.ascontiguousarray(query[:, :33]), 10)
    mask = np.random.default_rng(2).random(9000) < 0.1
    found = index.search_in_float64(query, 10, subset=mask)
    best, order = expected_hits(index.vectors, query[0], 10, mask)
    np.testing.assert_array_equal(found[1][0], order)
    np.testing.assert_array_equal(found[0][0], best)


def test_the_greatest_width_keeps_its_sums():
    # All codes of vectors and queries at their limits: the largest possible sums.
    vectors = np.ones((20, 65_536), np.float32)
    vectors[::2] = -1
    queries = np.ones((6, 65_536), np.float32)
    queries[::3] = -1
    for instruction_set in INSTRUCTION_SETS:
        assert_exact(index_of(vectors), queries, 12, instruction_set=instruction_set)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    rows=st.integers(0, 400),
    width=st.sampled_from([1, 2, 3, 8, 31, 63, 64, 65, 130, 257]),
    count=st.sampled_from([1, 2, 5, 13]),
    k=st.integers(1, 450),
    scale=st.sampled_from([1e-30, 1e-20, 1e-6, 1.0, 1e10, 1e18]),
    query_scale=st.sampled_from([1e-20, 1.0, 1e15]),
    instruction_set=st.sampled_from(INSTRUCTION_SETS),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_any_set_is_searched_exactly(
    kind, rows, width, count, k, scale, query_scale, instruction_set, threads, seed
):
    with np.errstate(over="ignore"):
        vectors = np.nan_to_num(made(kind, rows, width, seed, scale), posinf=1e38, neginf=-1e38)
        queries = np.nan_to_num(made(kind, count, width, seed + 1, query_scale), posinf=1e38, neginf=-1e38)
    assert_exact(index_of(vectors), queries, k, instruction_set=instruction_set, threads=threads)


@pytest.mark.parametrize("kind", [nearly_equal, duplicates, zeros], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_where_pruning_fails_the_vectors_themselves_are_scanned(kind, instruction_set):
    index = index_of(made(kind, 9000, 40))
    asked = made(kind, 9, 40, seed=0)
    for count in (1, 9):
        assert_exact(index, asked[:count], 5, instruction_set=instruction_set)


def test_vectors_a_million_times_larger_may_come_later():
    index = ExactIndex(24)
    parts = [made(gaussian, 100, 24, seed, scale) for seed, scale in enumerate([1e-18, 1.0, 1e-3, 1e18])]
    for part in parts:
        index.add(part)
        assert_exact(index, made(gaussian, 3, 24, 9), 12)
    np.testing.assert_array_equal(index.vectors, np.concatenate(parts))


def test_one_by_one_is_as_good_as_all_at_once():
    vectors = made(one_direction, 600, 32)
    slow = ExactIndex(32)
    for row in vectors:
        slow.add(row[np.newaxis])
    rescored = assert_exact(slow, made(one_direction, 4, 32, seed=1), 5)
    assert rescored.max() < 200


def test_codes_prune_most_vectors():
    index = index_of(made(gaussian, 20_000, 128))
    _, _, stats = index.search(made(gaussian, 20, 128, seed=1), k=10, return_stats=True)
    assert stats.rescored.shape == (20,)
    assert stats.rescored.min() >= 10
    assert stats.rescored.max() < 1000
    assert index.search(index.vectors[0], k=10, return_stats=True)[2].rescored.shape == ()


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("width", [1, 5, 64, 100, 128, 300, 512, 600])
def test_a_prefix_is_searched_by_its_own_scores(width, instruction_set):
    index = index_of(made(power_law, 700, 600))
    assert_exact(index, made(power_law, 6, 600, seed=1)[:, :width], 9, instruction_set=instruction_set)


def test_width_takes_whole_queries_or_their_prefix():
    index, queries = index_of(made(gaussian, 90, 70)), made(gaussian, 4, 70, seed=1)
    expected = index_of(index.vectors[:, :33]).search(queries[:, :33], k=5)
    for asked in (queries, queries[:, :33]):
        for ours, theirs in zip(index.search(asked, k=5, width=33), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(index.search(queries[0], k=5, width=33)[1], expected[1][0])
    np.testing.assert_array_equal(index.search(queries, width=70)[1], index.search(queries)[1])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 0}, "width is 0"),
        ({"width": 9}, "width is 9; the index has 8"),
        ({"threads": 0}, "threads is 0"),
        ({"subset": [True, False]}, r"mask of shape \[2\]; it must be \[5\]"),
        ({"subset": [0, 5]}, "id 5; the index has 5 vectors"),
        ({"subset": [-1]}, "id -1; the index has 5"),
        ({"subset": [0.5]}, "must be a mask or integer ids"),
        ({"subset": [[1]]}, "must be a mask or integer ids"),
    ],
)
def test_what_cannot_be_searched_is_refused(options, words):
    index = index_of(made(gaussian, 5, 8))
    with pytest.raises(CareError, match=words):
        index.search(made(gaussian, 2, 8), **options)


def test_a_prefix_is_refused_if_it_would_have_to_be_normalised_again():
    index = ExactIndex(8, order="slice-then-normalize")
    index.add(made(gaussian, 5, 8))
    with pytest.raises(CareError, match="normalises after it slices"):
        index.search(made(gaussian, 2, 8), width=4)
    assert index.search(made(gaussian, 2, 8), k=1, width=8)[1].shape == (2, 1)


@pytest.mark.parametrize("share", [0, 0.003, 0.1, 0.9, 1])
def test_a_subset_is_searched_alone(share):
    vectors, queries = made(clustered, 1500, 20), made(clustered, 5, 20, seed=1)
    index = index_of(vectors)
    mask = np.random.default_rng(3).random(1500) < share
    scores, ids = index.search(queries, k=12, subset=mask)
    for row, query in enumerate(queries):
        best, order = expected_hits(vectors, query, 12, mask)
        np.testing.assert_array_equal(ids[row], order)
        np.testing.assert_array_equal(scores[row], best.astype(np.float32))
    shuffled = np.random.default_rng(4).permutation(np.flatnonzero(mask))
    np.testing.assert_array_equal(index.search(queries, k=12, subset=shuffled)[1], ids)


def test_threads_of_a_search_change_no_hit():
    index, queries = index_of(made(clustered, 30_000, 64)), made(clustered, 7, 64, seed=1)
    expected = index.search(queries, k=50, threads=1)
    for threads in (2, 5):
        for ours, theirs in zip(index.search(queries, k=50, threads=threads), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@given(
    st.lists(
        st.sampled_from([0.0, -0.0, 1.0, 3.4e38, -3.4e38, 1e-45, np.inf, -np.inf, np.nan, -np.nan]),
        max_size=40,
    )
)
def test_finite_values_are_told_from_others(values):
    array = np.array(values, np.float32)
    assert _native.all_finite(array) == np.isfinite(array).all()
    assert _native.all_finite(array[np.newaxis]) == np.isfinite(array).all()


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_the_second_term_of_many_queries_excludes_what_the_first_cannot(instruction_set):
    # One value of a query makes its first term coarse, and no score depends on it.
    vectors, queries = made(gaussian, 9000, 300), made(gaussian, 30, 300, seed=1)
    vectors[:, 0], queries[:, 0] = 0, 12
    index = index_of(vectors)
    rescored = assert_exact(index, queries, 10, instruction_set=instruction_set, threads=1)
    assert np.mean(rescored) < 75


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_bounds_by_both_terms_hold_where_they_are_tight(instruction_set):
    # These vectors have codes without an error, so that nothing hides a bound that is a little too low.
    vectors = np.random.default_rng(0).integers(-60, 61, (9000, 300)).astype(np.float32)
    vectors[:, 0] = 127
    vectors[1::2] = -vectors[::2]
    index = index_of(vectors)
    assert index._parts[0].codes.norms[-1][:9000].max() < 1e-9
    asked = made(gaussian, 30, 300, seed=1)
    assert np.mean(assert_exact(index, asked, 10, instruction_set=instruction_set, threads=1)) < 75


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_hit_is_missed_in_many_tiles(kind):
    # Tiles have half a megabyte of vectors or less, and the second term is used after the first one.
    index, asked = index_of(made(kind, 5003, 130)), made(kind, 13, 130, seed=1)
    asked[0] = 1
    for instruction_set in INSTRUCTION_SETS:
        for threads in (1, 3):
            assert_exact(index, asked, 10, instruction_set=instruction_set, threads=threads)
