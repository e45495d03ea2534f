import ctypes
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from care_accel import CareError, ExactIndex, _native
from care_accel.index.shards import Shards

# Scores of such values stay within the range of float32.
FINITE = st.floats(-(2.0**60), 2.0**60, allow_nan=False, width=32)
INSTRUCTION_SETS = _native.instruction_sets()


def index_of(vectors, **options):
    index = ExactIndex(vectors.shape[1], **options)
    index.add(vectors)
    return index


def forced(index, queries, k, instruction_set, **options):
    """Search with one instruction set; float64 scores and ids."""
    return _native.search(
        index.vectors,
        **index._parts[0].codes.arguments(),
        queries=queries,
        k=k,
        threads=2,
        instruction_set=instruction_set,
        **options,
    )[:2]


def defined_score(document, query):
    """The score in the order of additions that csrc/include/care/score.hpp states, in plain Python."""
    a = [0.0] * 8
    for j, (d, q) in enumerate(zip(document.tolist(), query.tolist(), strict=True)):
        a[j % 8] += d * q
    return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))


def defined_hits(vectors, query, k):
    """The k best by the defined score, ties by smaller id, filled up with -inf and -1."""
    scores = [defined_score(row, query) for row in vectors]
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k]
    left = k - len(order)
    with np.errstate(over="ignore"):
        best = np.array([scores[i] for i in order] + [-math.inf] * left).astype(np.float32)
    return best, np.array(order + [-1] * left, dtype=np.int64)


def random_vectors(rows, width, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


@pytest.mark.parametrize("width", [1, 7, 8, 9, 15, 24, 100, 192, 768])
@pytest.mark.parametrize(("rows", "k"), [(0, 3), (1, 1), (1, 4), (33, 5), (33, 33), (33, 40)])
def test_hits_are_those_of_the_definition_bit_for_bit(rows, k, width):
    vectors, queries = random_vectors(rows, width), random_vectors(3, width, seed=1)
    scores, ids = index_of(vectors).search(queries, k=k)
    assert (scores.dtype, ids.dtype, scores.shape, ids.shape) == (np.float32, np.int64, (3, k), (3, k))
    for row, query in enumerate(queries):
        best, order = defined_hits(vectors, query, k)
        np.testing.assert_array_equal(ids[row], order)
        np.testing.assert_array_equal(scores[row], best)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), rows=st.integers(0, 12), width=st.integers(1, 19), k=st.integers(1, 14))
def test_any_finite_values_are_ranked_by_the_definition(data, rows, width, k):
    vectors = data.draw(hnp.arrays(np.float32, (rows, width), elements=FINITE))
    query = data.draw(hnp.arrays(np.float32, width, elements=FINITE))
    scores, ids = index_of(vectors).search(query, k=k)
    best, order = defined_hits(vectors, query, k)
    np.testing.assert_array_equal(ids, order)
    np.testing.assert_array_equal(scores, best)


def test_scores_are_right_in_higher_precision():
    vectors, query = random_vectors(200, 768), random_vectors(1, 768, seed=1)[0]
    scores, ids = index_of(vectors).search(query, k=200)
    exact = [math.fsum(d * q for d, q in zip(vectors[i].tolist(), query.tolist(), strict=True)) for i in ids]
    np.testing.assert_allclose(scores, exact, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rows", [50, 10_000])
def test_the_result_does_not_depend_on_threads_or_batch(rows):
    # Few different values: many ties, which parts of the index must break alike.
    rng = np.random.default_rng(0)
    vectors = rng.integers(-2, 3, (rows, 9)).astype(np.float32)
    queries = rng.integers(-2, 3, (6, 9)).astype(np.float32)
    scores, ids = index_of(vectors, threads=1).search(queries, k=25)
    for threads in (2, 3, 7):
        other = index_of(vectors, threads=threads).search(queries, k=25)
        np.testing.assert_array_equal(other[0], scores)
        np.testing.assert_array_equal(other[1], ids)
    for row, query in enumerate(queries):
        np.testing.assert_array_equal(index_of(vectors).search(query, k=25)[1], ids[row])


def cancelling_vectors(rows, width, seed):
    """Vectors whose sum is 0 but for rounding, so that it shows the order of additions, even in float32.

    Each value comes with its opposite, somewhere in the vector; the magnitudes are far apart.
    """
    rng = np.random.default_rng(seed)
    half = rng.standard_normal((rows, width // 2)) * 10.0 ** rng.integers(-12, 12, (rows, width // 2))
    rest = np.ones((rows, width % 2))
    return rng.permuted(np.concatenate([half, -half, rest], axis=1).astype(np.float32), axis=1)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("width", [1, 7, 8, 9, 16, 100, 768])
def test_every_instruction_set_adds_in_the_order_of_the_definition(instruction_set, width):
    # The numbers of rows and queries are no multiples of what the kernels score together.
    vectors = cancelling_vectors(43, width, seed=width)
    queries = np.random.default_rng(0).choice([-1.0, 1.0], (13, 1)).astype(np.float32) * np.ones(
        (13, width), np.float32
    )
    scores, ids = forced(index_of(vectors), queries, 43, instruction_set)
    for row, query in enumerate(queries):
        best, order = defined_hits(vectors, query, 43)
        np.testing.assert_array_equal(ids[row], order)
        np.testing.assert_array_equal(scores[row].astype(np.float32), best)


def test_an_instruction_set_that_is_not_there_is_refused():
    vectors = random_vectors(2, 3)
    with pytest.raises(ValueError, match="no kernel for the instruction set 'abacus'"):
        forced(index_of(vectors), vectors, 1, "abacus")


def test_the_callers_rounding_mode_changes_no_score():
    vectors, query = random_vectors(50, 768), random_vectors(1, 768, seed=1)[0]
    index = index_of(vectors)
    expected = index.search(query, k=50)[0]
    libm = ctypes.CDLL("libm.so.6")
    before = libm.fegetround()
    libm.fesetround(0x800)  # upwards, on x86
    try:
        found = index.search(query, k=50)[0]
    finally:
        libm.fesetround(before)
    np.testing.assert_array_equal(found, expected)


def test_more_queries_than_one_pass_takes_are_all_answered():
    vectors, queries = random_vectors(300, 5), random_vectors(150, 5, seed=1)
    together = index_of(vectors).search(queries, k=4)[1]
    alone = [index_of(vectors).search(query, k=4)[1] for query in queries]
    np.testing.assert_array_equal(together, alone)


def test_a_search_that_memory_cannot_hold_is_an_exception_and_no_crash():
    program = """
import resource
import numpy as np
from care_accel import ExactIndex
index = ExactIndex(1, threads=2)
index.add(np.zeros((3_000_000, 1), np.float32))
index.search(np.zeros(1, np.float32))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 60_000_000, -1))
try:
    index.search(np.zeros(1, np.float32), k=3_000_000)
except MemoryError:
    print("MemoryError")
"""
    ran = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "MemoryError\n"), ran.stderr


def test_equal_scores_come_by_smaller_id():
    vectors = np.tile(random_vectors(1, 5), (20, 1))
    assert list(index_of(vectors).search(vectors[0], k=8)[1]) == list(range(8))


def test_scores_that_are_equal_in_float32_are_still_ordered():
    # 1 + 2^-30 and 1 are one float32; the float64 scores tell them apart.
    vectors = np.array([[1.0, 0.0], [1.0, 2.0**-15]], dtype=np.float32)
    scores, ids = index_of(vectors).search(np.array([1.0, 2.0**-15], dtype=np.float32), k=2)
    assert scores[0] == scores[1]
    assert list(ids) == [1, 0]


def test_the_smallest_and_the_largest_numbers_are_scored():
    tiny, huge = np.float32(1e-45), np.finfo(np.float32).max
    vectors = np.array([[tiny, 0], [huge, 0], [-huge, 0], [0, 0]], dtype=np.float32)
    scores, ids = index_of(vectors).search(np.array([1.0, 1.0], dtype=np.float32), k=4)
    assert list(ids) == [1, 0, 3, 2]
    np.testing.assert_array_equal(scores, np.array([huge, tiny, 0, -huge], dtype=np.float32))


def test_a_score_out_of_the_range_of_float32_is_refused_with_query_and_vector():
    vectors = np.full((3, 2), np.finfo(np.float32).max)
    with pytest.raises(
        CareError, match=r"query 1: its score with vector 0 is 6.8.*e.38, out of the range of float32"
    ):
        index_of(vectors).search(np.array([[0, 1], [1, 1]], dtype=np.float32), k=2)


def test_one_query_gives_one_row_and_no_queries_give_none():
    index = index_of(random_vectors(4, 3))
    assert index.search(np.zeros(3, np.float32), k=2)[0].shape == (2,)
    assert index.search(np.zeros((0, 3), np.float32), k=2)[1].shape == (0, 2)


def test_vectors_may_be_added_in_parts():
    vectors = random_vectors(3000, 6)
    index = ExactIndex(6)
    for start in range(0, 3000, 700):
        index.add(vectors[start : start + 700])
    index.add(vectors[:0])
    assert len(index) == 3000
    np.testing.assert_array_equal(index.vectors, vectors)
    query = random_vectors(1, 6, seed=2)
    np.testing.assert_array_equal(index.search(query, k=9)[1], index_of(vectors).search(query, k=9)[1])


def test_half_precision_and_any_layout_are_accepted():
    vectors = random_vectors(12, 8)
    half = vectors.astype(np.float16)
    np.testing.assert_array_equal(index_of(half).vectors, half.astype(np.float32))
    strided = np.repeat(np.repeat(vectors, 2, axis=0), 2, axis=1)[::2, ::2]
    np.testing.assert_array_equal(index_of(strided).vectors, vectors)
    np.testing.assert_array_equal(index_of(np.asfortranarray(vectors)).vectors, vectors)
    locked = vectors.copy()
    locked.flags.writeable = False
    np.testing.assert_array_equal(
        index_of(locked).search(locked, k=1)[1], index_of(vectors).search(vectors, k=1)[1]
    )


def test_the_index_keeps_its_own_copy_and_hands_out_a_read_only_view():
    vectors = random_vectors(3, 4)
    index = index_of(vectors)
    vectors[:] = 0
    assert index.vectors.any()
    with pytest.raises(ValueError, match="read-only"):
        index.vectors[0, 0] = 1.0


def test_a_view_handed_out_does_not_stop_the_index_from_growing():
    index = index_of(random_vectors(3, 4))
    view = index.vectors
    index.add(random_vectors(2, 4, seed=1))
    assert (len(view), len(index)) == (3, 5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_with_its_row(value):
    index = index_of(random_vectors(2, 3))
    bad = random_vectors(5, 3)
    bad[3, 1] = value
    with pytest.raises(CareError, match="vectors: row 3 "):
        index.add(bad)
    assert len(index) == 2
    with pytest.raises(CareError, match="queries: row 3 "):
        index.search(bad)
    with pytest.raises(CareError, match="queries: row 0 "):
        index.search(bad[3])


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (np.zeros((2, 4), np.float32), r"shape \[2, 4\]; they must be \[n, 3\]"),
        (np.zeros((2, 3, 1), np.float32), r"shape \[2, 3, 1\]"),
        (np.float32(1), r"shape \[\]"),
        (np.zeros((2, 3)), r"are float64; use convert=True to round them to float32, or convert"),
        (np.zeros((2, 3), np.int64), "are int64; use convert=True"),
        ([np.zeros(3), np.zeros(3)], "are float64; use convert=True"),
        ([np.float64(1), 2.0, 3.0], "are float64; use convert=True"),
        (torch.zeros(2, 3, dtype=torch.float64), "are float64; use convert=True"),
        (np.zeros((2, 3), bool), "are bool; give real numbers"),
        (np.zeros((2, 3), complex), "are complex128; give real numbers"),
        ([["1", "2", "3"]], "are <U1; give real numbers"),
        (None, "are object; give real numbers"),
        ([[1.0, 2.0, 3.0], [1.0]], r"cannot be read as an array: .*; give an array \[n, width\]"),
        ([[1e300, 0.0, 0.0]], "a value is out of the range of float32; scale them down"),
        ([[float("nan"), 0.0, 0.0]], "row 0 contains a value that is not finite"),
    ],
)
def test_another_shape_or_dtype_is_refused(bad, words):
    index = ExactIndex(3)
    with pytest.raises(CareError, match=f"^vectors.*{words}"):
        index.add(bad)
    with pytest.raises(CareError, match=f"^queries.*{words}") as error:
        index.search(bad)
    assert "\n" not in str(error.value)


VALUES = np.array([[0.1, -2.0, 3.0], [1.0, 0.3, 0.0]])
ROUNDED = VALUES.astype(np.float32)
EXACT = {
    "lists of Python floats": VALUES.tolist(),
    "tuples": tuple(map(tuple, VALUES.tolist())),
    "a list of arrays": list(ROUNDED),
    "a list of tensors": list(torch.tensor(ROUNDED)),
    "a tensor": torch.tensor(ROUNDED),
    "a tensor that requires a gradient": torch.tensor(ROUNDED, requires_grad=True),
    "a list of such tensors": list(torch.tensor(ROUNDED, requires_grad=True)),
    "a result of such a tensor": torch.tensor(ROUNDED, requires_grad=True) * 1,
}
CONVERTED = {
    "float64": VALUES,
    "a list of float64 arrays": list(VALUES),
    "a float64 tensor that requires a gradient": torch.tensor(VALUES, requires_grad=True),
    "the widest floats": VALUES.astype(np.longdouble),
}


@pytest.mark.parametrize("kind", [*EXACT, *CONVERTED])
def test_vectors_and_queries_of_other_types_are_taken_by_one_rule(kind):
    values, options = (EXACT | CONVERTED)[kind], {"convert": True} if kind in CONVERTED else {}
    index = ExactIndex(3)
    index.add(values, **options)
    np.testing.assert_array_equal(index.vectors, ROUNDED)
    expected = index.search(ROUNDED, k=2)
    for found in (index.search(values, k=2, **options), Shards([index]).search(values, k=2, **options)):
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    one = index.search(values[0], k=2, **options)
    np.testing.assert_array_equal(one[1], expected[1][0])
    np.testing.assert_array_equal(index.search(values, k=1, width=2, **options)[1].shape, (2, 1))


def test_python_integers_half_precision_and_integer_arrays_by_the_same_rule():
    index = ExactIndex(2)
    index.add([[1, 2], [3, 4]])
    index.add(np.array([[0.1, 0.2]], np.float16))
    index.add(torch.tensor([[0.1, 0.2]], dtype=torch.bfloat16))
    index.add(np.array([[5, 6]]), convert=True)
    expected = [[1, 2], [3, 4], np.float16([0.1, 0.2]), torch.tensor([0.1, 0.2]).bfloat16().float(), [5, 6]]
    np.testing.assert_array_equal(
        index.vectors, np.array([list(map(float, row)) for row in expected], np.float32)
    )
    with pytest.raises(CareError, match="out of the range of float32"):
        index.add(np.array([[1e300, 0.0]]), convert=True)
    assert len(index) == 5


@pytest.mark.parametrize("k", [0, -1, 2.5, True, "3"])
def test_a_k_that_is_no_number_above_0_is_refused(k):
    with pytest.raises(CareError, match="k is "):
        ExactIndex(3).search(np.zeros(3, np.float32), k=k)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"width": 0}, "width is 0"),
        ({"width": 2.0}, "width is 2.0"),
        ({"width": 65_537}, "width is 65537; at most 65,536"),
        ({"width": 3, "order": "sliced"}, "order is 'sliced'"),
        ({"width": 3, "threads": 0}, "threads is 0"),
        ({"width": 3, "device": "cuda"}, "device 'cuda'"),
    ],
)
def test_an_index_that_cannot_be_is_refused(arguments, words):
    with pytest.raises(CareError, match=words):
        ExactIndex(**arguments)


def test_searches_from_many_threads_at_once_are_right():
    index, queries = index_of(random_vectors(9000, 16)), random_vectors(24, 16, seed=1)
    alone = [index.search(query, k=10)[1].tolist() for query in queries]
    with ThreadPoolExecutor(8) as pool:
        assert [ids.tolist() for _, ids in pool.map(lambda q: index.search(q, k=10), queries)] == alone
