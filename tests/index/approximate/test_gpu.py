"""The code for a GPU, on a stand-in: faiss's functions for a GPU return the index in host memory."""

import numpy as np
import pytest
from planted_vectors import WIDTH, clustered

from care_accel import ApproximateIndex, CareError, ExactIndex
from care_accel.index.approximate import family
from care_accel.index.approximate.library import require_gpu

QUERIES = clustered(40, 5)


@pytest.fixture
def moved(monkeypatch):
    """Return the numbers of the GPUs to which indexes were moved."""
    import faiss

    numbers = []

    def to_gpu(resources, number, index):
        numbers.append(number)
        return index

    for name, stand_in in {
        "StandardGpuResources": object,
        "get_num_gpus": lambda: 2,
        "index_cpu_to_gpu": to_gpu,
        "index_gpu_to_cpu": lambda index: index,
    }.items():
        monkeypatch.setattr(faiss, name, stand_in, raising=False)
    return numbers


def on_gpu(device="cuda:1"):
    exact = ExactIndex(WIDTH)
    exact.add(clustered(3000, 0))
    exact.device = device
    return exact


def test_lists_of_vectors_and_int8_codes_are_tried_and_moved(moved, exact_is_slow, tmp_path):
    index = ApproximateIndex.build(on_gpu(), 0.95, queries=clustered(900, 1), threads=1)
    assert index.device == "cuda:1"
    tried = [row.name for row in index.choice.tried[1:]]
    assert tried
    assert all(name.startswith("IVF") and name.endswith(("Flat", "SQ8")) for name in tried)
    assert moved == [1] * len(set(tried))
    expected = on_gpu("cpu")
    for query in QUERIES:
        scores, ids = index.search(query, 10)
        known = dict(zip(*reversed(expected.search(query, 3000)), strict=True))
        assert [known[i] for i in ids] == scores.tolist()
    # Faiss has no selection on a GPU.
    mask = np.ones(3000, dtype=bool)
    mask[0] = False
    np.testing.assert_array_equal(
        index.search(QUERIES, 10, subset=mask)[1], expected.search(QUERIES, 10, subset=mask)[1]
    )
    index.remove([7])
    expected.remove([7])
    np.testing.assert_array_equal(index.search(QUERIES, 10)[1], expected.search(QUERIES, 10)[1])
    index.save(tmp_path / "index")
    assert len(ApproximateIndex.load(tmp_path / "index")) == 3000


@pytest.mark.parametrize("name", ["HNSW32,Flat", "IVF32,PQ", "IVF32,RaBitQ"])
def test_what_has_no_code_for_a_gpu_is_refused(moved, exact_is_slow, name):
    with pytest.raises(CareError, match="on a GPU there are lists with Flat or SQ8 only"):
        ApproximateIndex.build(on_gpu(), 0.95, queries=clustered(900, 1), family=[name])
    assert moved == []


def test_a_gpu_that_is_not_there_is_refused(moved):
    assert require_gpu("cuda") == 0
    with pytest.raises(CareError, match="faiss sees 2 GPUs"):
        require_gpu("cuda:2")


def test_an_index_on_another_device_is_refused(moved):
    with pytest.raises(CareError, match="the index is on cpu; load it with device='cuda'"):
        ApproximateIndex.build(on_gpu("cpu"), device="cuda")


def test_codes_for_a_gpu_are_in_the_family():
    assert set(family.GPU_CODES) < set(family.CODES)
