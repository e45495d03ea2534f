"""Int4 codes with a scale for each value: no hit is missed, whatever the values, the scales and the queries are."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_search import assert_exact, assert_found, expected_hits, index_of

from care_accel import CareError, ExactIndex, _native
from care_accel.index import codes as codes_module
from care_accel.index.value_scales import chosen_value_scales, no_value_scales

INSTRUCTION_SETS = _native.instruction_sets()
LEAST = _native.MIN_VALUE_SCALE
WIDTH = 67


def normal(rows, seed):
    return np.random.default_rng(seed).standard_normal((rows, WIDTH))


def power_law(rows, seed):
    return normal(rows, seed) / np.arange(1, WIDTH + 1) + 0.3


def zero_dimension(rows, seed):
    return power_law(rows, seed) * (np.arange(WIDTH) != 5)


def constant_dimension(rows, seed):
    """A query is large where the vectors never vary."""
    vectors = power_law(rows, seed)
    vectors[:, 5] = 1000
    return vectors


def ten_to_the_thirty(rows, seed):
    """Nearly all of a score comes from few values; the others still tell ties apart."""
    return normal(rows, seed) * np.resize([1.0, 1e-30, 1e30, 1e-10], WIDTH)


def denormals(rows, seed):
    return normal(rows, seed) * np.resize([1e-40, 1e-44, 0], WIDTH)


def ties(rows, seed):
    return np.random.default_rng(seed).integers(-1, 2, (rows, WIDTH)) * np.resize([1, 64, 4096], WIDTH)


KINDS = [power_law, zero_dimension, constant_dimension, ten_to_the_thirty, denormals, ties]


def made(kind, rows, seed=0):
    return kind(rows, seed).astype(np.float32)


def scales_of(index):
    return index._parts[0].codes.int4.value_scales


def chosen(vectors, exponent=0):
    mean = (vectors.sum(axis=0, dtype=np.float64) / max(1, len(vectors))).astype(np.float32)
    return chosen_value_scales(vectors, mean, exponent, 1)


@pytest.fixture
def any_scales(monkeypatch):
    """Scales of all sizes instead of chosen ones."""
    made = LEAST ** np.random.default_rng(0).random(WIDTH).astype(np.float32)
    made[:2] = LEAST, 1
    monkeypatch.setattr(codes_module, "chosen_value_scales", lambda *_: made)
    return made


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_no_hit_is_missed_with_chosen_scales(kind, instruction_set):
    index = index_of(made(kind, 4_003), int4=True)
    for query in np.concatenate([made(kind, 2, seed=1), np.ones((1, WIDTH), np.float32), index.vectors[:1]]):
        for k in (1, 10, 100):
            assert_exact(index, query[np.newaxis], k, instruction_set=instruction_set)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_hit_is_missed_with_any_scales(kind, any_scales):
    index = index_of(made(kind, 4_003), int4=True)
    assert scales_of(index) is any_scales
    for query in np.concatenate(
        [made(kind, 1, seed=1), np.eye(2, WIDTH, dtype=np.float32), index.vectors[:1]]
    ):
        for instruction_set in INSTRUCTION_SETS:
            assert_exact(index, query[np.newaxis], 10, instruction_set=instruction_set)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([0, 1e-45, 1e-30, 1e-3, 1.0, 1e3, 1e30, 3e37]), min_size=1, max_size=9),
    width=st.sampled_from([1, 3, 9, 65, 130]),
    rows=st.integers(1, 300),
    k=st.integers(1, 40),
    seed=st.integers(0, 2**16),
)
def test_any_sizes_of_values_are_searched_exactly(sizes, width, rows, k, seed):
    values = np.random.default_rng(seed).standard_normal((rows + 2, width)) * np.resize(sizes, width)
    values = values.astype(np.float32)
    index = index_of(values[:rows], int4=True)
    scales = scales_of(index)
    assert scales.dtype == np.float32
    assert ((scales >= LEAST) & (scales <= 1)).all()
    for query in values[-3:]:
        assert_exact(index, query[np.newaxis], k)


def test_vectors_of_another_distribution_may_come_later():
    index = index_of(made(zero_dimension, 5_000), int4=True)
    scales = scales_of(index)
    assert scales[5] < scales[4] / 1000
    others = made(power_law, 3_000, seed=1)[:, ::-1] * np.float32(100)
    index.add(others[:1_001])
    index.add(others[1_001:])
    assert scales_of(index) is scales
    assert index._parts[0].codes.int4.count == 8_000
    for query in np.concatenate(
        [others[:2], made(power_law, 2, seed=2), np.eye(6, WIDTH, dtype=np.float32)[5:]]
    ):
        assert_exact(index, query[np.newaxis], 10)


def test_each_part_has_scales_of_its_own_and_all_are_searched(tmp_path):
    vectors = np.concatenate([made(ties, 3_000), made(ties, 1_000, seed=1)[:, ::-1]])
    index = index_of(vectors[:3_000], int4=True)
    index.save(tmp_path / "index")
    index = ExactIndex.load(tmp_path / "index")
    index.add(vectors[3_000:])
    index.remove(range(0, 4_000, 3))
    mask = ~index.removed
    for query in (*vectors[-1:], *made(ties, 1, seed=2)):
        assert_found(index, vectors, mask, query[np.newaxis], 10)
        some = mask & (np.arange(4_000) % 2 == 0)
        assert_found(index, vectors, some, query[np.newaxis], 10, subset=np.arange(4_000) % 2 == 0)
        assert_found(index, vectors, mask, query[np.newaxis, :40], 10, width=40)
    kept = index.compact()
    assert_found(index, vectors[kept], np.ones(len(kept), bool), vectors[-1:], 10)


def test_values_of_one_size_have_no_scales():
    vectors = normal(3_000, 0).astype(np.float32)
    assert (chosen(vectors) == 1).all()


@pytest.mark.parametrize(
    "vectors", [np.zeros((0, 4)), np.zeros((9, 4)), np.full((9, 4), 3.0), np.ones((1, 4))]
)
def test_vectors_that_do_not_vary_have_no_scales(vectors):
    assert (chosen(vectors.astype(np.float32)) == 1).all()


def test_scales_follow_the_deviations_and_tighten_the_bounds():
    vectors = made(power_law, 3_000)
    scales = chosen(vectors)
    assert scales[0] == 1
    assert scales[60] < scales[20] < scales[5]
    index = index_of(vectors, int4=True)
    plain = codes_module.Int4Codes(WIDTH)
    codes = index._parts[0].codes
    plain.update(vectors, codes.mean, codes.exponent, 1)
    query = made(power_law, 1, seed=1)[0]
    before = np.linalg.norm(query) * plain.norms[1, :3_000].mean()
    after = np.linalg.norm(query * scales_of(index)) * codes.int4.norms[1, :3_000].mean()
    assert after < 0.8 * before


def test_scales_are_found_again_in_a_saved_index(tmp_path):
    index = index_of(made(power_law, 3_000), int4=True)
    index.save(tmp_path / "index")
    for resident in (None, "codes", "all"):
        loaded = ExactIndex.load(tmp_path / "index", resident=resident)
        np.testing.assert_array_equal(scales_of(loaded), scales_of(index))
        assert_exact(loaded, made(power_law, 1, seed=1), 10)
    # Joined to a larger part in memory, its codes grow with the scales that they have.
    loaded.add(made(power_law, 2_000, seed=2))
    assert_exact(loaded, made(power_law, 1, seed=1), 10)


@pytest.fixture
def former(tmp_path, monkeypatch):
    """An index in format 3, as it was saved when int4 codes had no scales of values."""
    with monkeypatch.context() as patched:
        patched.setattr(codes_module, "chosen_value_scales", lambda *_: no_value_scales(WIDTH))
        index_of(made(power_law, 3_000), int4=True).save(tmp_path / "former")
    file = tmp_path / "former" / "index.json"
    manifest = json.loads(file.read_text())
    del manifest["parts"][0]["files"]["value_scales.npy"]
    file.write_text(json.dumps(manifest | {"format": 3}))
    (tmp_path / "former" / "parts" / "0" / "value_scales.npy").unlink()
    return tmp_path / "former"


def test_an_index_without_scales_is_searched_and_saved_again(former, tmp_path):
    query, more = made(power_law, 1, seed=1), made(power_law, 2_000, seed=2)
    loaded = ExactIndex.load(former)
    assert (scales_of(loaded) == 1).all()
    assert_exact(loaded, query, 10)
    loaded.add(more)
    loaded.save(tmp_path / "again")
    again = ExactIndex.load(tmp_path / "again")
    vectors = np.concatenate([made(power_law, 3_000), more])
    best, ids = expected_hits(vectors, query[0], 10)
    scores, found, _ = again.search_in_float64(query, 10)
    assert (found[0].tolist(), scores[0].tolist()) == (ids.tolist(), best.tolist())


@pytest.mark.parametrize("wrong", [0.0, LEAST / 2, 1.001, -1.0, np.nan, np.inf])
def test_scales_beyond_their_range_are_refused_in_one_line(tmp_path, wrong):
    index = index_of(made(power_law, 300), int4=True)
    index.save(tmp_path / "index")
    damaged = scales_of(index).copy()
    damaged[9] = wrong
    codes = index._parts[0].codes.search_arguments() | {"value_scales": damaged}
    with pytest.raises(ValueError, match="value scales must lie in"):
        _native.search(index.vectors, **codes, queries=index.vectors[:1], k=1, threads=1)
    # A damaged file whose checksum is right.
    np.save(tmp_path / "index" / "parts" / "0" / "value_scales.npy", damaged)
    with pytest.raises(CareError, match=r"value_scales.npy: its checksum does not match"):
        ExactIndex.load(tmp_path / "index")
    with pytest.raises(CareError, match=r"value_scales.npy: has scales beyond .* to 1; save") as error:
        ExactIndex.load(tmp_path / "index", verify=False)
    assert "\n" not in str(error.value)


def test_scales_that_are_missing_are_refused_in_one_line(tmp_path):
    index_of(made(power_law, 300), int4=True).save(tmp_path / "index")
    shutil.copytree(tmp_path / "index", tmp_path / "unlisted")
    (tmp_path / "index" / "parts" / "0" / "value_scales.npy").unlink()
    with pytest.raises(CareError, match=r"value_scales.npy: is missing; save the index again"):
        ExactIndex.load(tmp_path / "index")
    file = tmp_path / "unlisted" / "index.json"
    manifest = json.loads(file.read_text())
    del manifest["parts"][0]["files"]["value_scales.npy"]
    file.write_text(json.dumps(manifest))
    with pytest.raises(CareError, match=r"does not list value_scales.npy"):
        ExactIndex.load(tmp_path / "unlisted")
