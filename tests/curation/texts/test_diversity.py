import numpy as np
import pytest

from care_accel import CareError
from care_accel.curation.texts.diversity import select_diverse


def one_by_one(vectors, seeds, neighbours, similarity):
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    kept = list(range(min(seeds, len(unit))))
    for position in range(len(kept), len(unit)):
        if (unit[kept] @ unit[position] > similarity).sum() <= neighbours:
            kept.append(position)
    return np.isin(np.arange(len(unit)), kept)


def clusters(seed, count=400, width=16):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((12, width))
    vectors = centres[rng.integers(0, 12, count)] + 0.35 * rng.standard_normal((count, width))
    return (vectors * rng.uniform(0.2, 3, (count, 1))).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 7, 64, 1000])
@pytest.mark.parametrize(("seeds", "neighbours", "similarity"), [(0, 0, 0.8), (50, 3, 0.8), (10, 1, 0.5)])
def test_batches_select_what_one_at_a_time_selects(batch, seeds, neighbours, similarity):
    vectors = clusters(seeds)
    found = select_diverse(vectors, seeds=seeds, neighbours=neighbours, similarity=similarity, batch=batch)
    expected = one_by_one(vectors, seeds, neighbours, similarity)
    assert (found == expected).all()
    assert seeds < expected.sum() < len(vectors)


def test_no_selected_candidate_had_too_many_neighbours():
    vectors = clusters(1)
    selected = select_diverse(vectors, seeds=20, neighbours=2, similarity=0.7)
    unit = vectors[selected] / np.linalg.norm(vectors[selected], axis=1, keepdims=True)
    near = np.tril(unit @ unit.T > 0.7, -1).sum(axis=1)
    assert near[20:].max() == 2


def test_the_length_of_a_vector_does_not_count():
    vectors = clusters(2)
    found = select_diverse(vectors, seeds=5, neighbours=1, similarity=0.8)
    assert (select_diverse(4 * vectors, seeds=5, neighbours=1, similarity=0.8) == found).all()


def test_seeds_stay_though_they_are_alike_and_may_be_more_than_there_are():
    same = np.ones((6, 4), dtype=np.float32)
    assert select_diverse(same, seeds=4, neighbours=0, similarity=0.9).tolist() == [True] * 4 + [False] * 2
    assert select_diverse(same, seeds=99, neighbours=0, similarity=0.9).all()
    assert select_diverse(same[:0], seeds=3, neighbours=0, similarity=0.9).shape == (0,)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"neighbours": -1}, "neighbours is -1"),
        ({"neighbours": 1.5}, "neighbours is 1.5"),
        ({"similarity": 1.5}, "a cosine"),
        ({"similarity": float("nan")}, "a cosine"),
        ({"seeds": -1}, "seeds is -1"),
        ({"batch": 0}, "batch is 0"),
    ],
)
def test_numbers_out_of_range_are_refused(change, words):
    values = {"seeds": 1, "neighbours": 1, "similarity": 0.5} | change
    with pytest.raises(CareError, match=words):
        select_diverse(np.ones((3, 2), dtype=np.float32), **values)


def test_a_vector_of_zeros_is_named():
    vectors = np.ones((3, 2), dtype=np.float32)
    vectors[1] = 0
    with pytest.raises(CareError, match="vector 1 is zero"):
        select_diverse(vectors, seeds=1, neighbours=1, similarity=0.5)
