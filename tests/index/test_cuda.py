"""Search on a GPU finds the hits and scores of a search on the CPU, to the last bit.

tests/test_native.py tests the kernels on an emulated GPU, on any machine.
"""

import numpy as np
import pytest
from plain_search import assert_found, vectors_of

from care_accel import ExactIndex, _native
from care_accel.errors import CareError
from care_accel.index import Shards


def count_gpus():
    try:
        return _native.cuda_devices() if _native.CUDA else 0
    except RuntimeError:
        return 0


GPUS = count_gpus()
on_a_gpu = pytest.mark.skipif(GPUS == 0, reason="needs a GPU and a build with CARE_CUDA=ON")
without_cuda = pytest.mark.skipif(_native.CUDA, reason="this build has CUDA support")


@without_cuda
def test_a_build_without_cuda_says_what_is_missing():
    with pytest.raises(CareError, match=r"'cuda:1': this build has no CUDA support; .*CARE_CUDA=ON"):
        ExactIndex(3, device="cuda:1")


@pytest.mark.parametrize("device", ["gpu", "cuda:one", "cuda:-1", "cuda:1.5", "", 1])
def test_a_device_that_is_none_is_refused(device):
    with pytest.raises(CareError, match=r"it must be 'cpu', 'cuda' or one such as 'cuda:1'"):
        ExactIndex(3, device=device)


@pytest.mark.skipif(not _native.CUDA or GPUS > 0, reason="needs a build with CARE_CUDA=ON and no GPU")
def test_a_machine_without_a_gpu_is_told_so():
    with pytest.raises(CareError, match="nvidia-smi"):
        ExactIndex(3, device="cuda")


def test_queries_of_the_processor_are_not_searched_on_the_device():
    with pytest.raises(CareError, match="otherwise use search"):
        ExactIndex(3).search_on_device(np.zeros((1, 3), np.float32))


class CopyInNumPy:
    """Stands for the copy of a part on a GPU."""

    made = 0
    columns = None  # the limit of the last search

    def __init__(self, vectors, *, device, bytes, norms, mean, exponent):
        type(self).made += 1
        self.vectors = vectors.astype(np.float64)

    def search(self, queries, *, k, allowed, allowed_count, max_columns):
        type(self).columns = max_columns
        mask = np.ones(len(self.vectors), bool)
        if allowed is not None:
            mask = np.unpackbits(allowed.view(np.uint8), count=len(mask), bitorder="little").astype(bool)
        assert allowed_count == mask.sum()
        scores, ids = np.full((len(queries), k), -np.inf), np.full((len(queries), k), -1)
        for row, values in enumerate(queries.astype(np.float64) @ self.vectors.T):
            best = np.lexsort((np.arange(len(mask)), -values))
            best = best[mask[best]][:k]
            scores[row, : len(best)], ids[row, : len(best)] = values[best], best
        return scores, ids, np.full(len(queries), mask.sum())

    def search_on_device(self, queries, *, stream, **options):
        return self.search(queries.values, **options)[:2]


class QueriesOnDevice:
    shape = (3, 6)
    values = vectors_of(3, seed=1)

    def __dlpack_device__(self):
        return 2, 0


def test_parts_removals_and_subsets_reach_the_gpu(monkeypatch, tmp_path):
    for name, value in (("CUDA_MAX_WIDTH", 100), ("CUDA_MAX_K", 100), ("CudaIndex", CopyInNumPy)):
        monkeypatch.setattr(_native, name, value, raising=False)
    monkeypatch.setattr("care_accel.index.exact.require_cuda", lambda device: 0)
    vectors, queries = vectors_of(1_300), QueriesOnDevice.values
    ExactIndex(6).save(tmp_path / "index")
    index = ExactIndex.load(tmp_path / "index", device="cuda")
    index.add(vectors[:1_000])
    index.save(tmp_path / "index")
    index = ExactIndex.load(tmp_path / "index", device="cuda")
    mask = np.ones(1_300, bool)
    chosen = np.arange(1_300) % 3 == 0
    for start, end, copies in ((1_000, 1_000, 1), (1_000, 1_100, 2), (1_100, 1_300, 3)):
        CopyInNumPy.made = 0 if end == 1_000 else CopyInNumPy.made
        index.add(vectors[start:end])
        mask[[end - 1, 5]] = False
        index.remove([end - 1, 5])
        assert_found(index, vectors[:end], mask[:end], queries, 20)
        assert_found(index, vectors[:end], (mask & chosen)[:end], queries, 20, subset=chosen[:end])
        # Only what is new was copied.
        assert CopyInNumPy.made == copies
    assert len(index._parts) == 2
    expected = index.search(queries, k=9)
    scores, ids = index.search_on_device(QueriesOnDevice(), k=9)
    np.testing.assert_array_equal(ids, expected[1])
    np.testing.assert_array_equal(scores.astype(np.float32), expected[0])
    assert len(index._parts) == 1
    kept = index.compact()
    assert_found(index, vectors[kept], np.ones(len(kept), bool), queries, 20)


def test_a_limit_on_columns_reaches_the_gpu(monkeypatch):
    for name, value in (("CUDA_MAX_WIDTH", 100), ("CUDA_MAX_K", 100), ("CudaIndex", CopyInNumPy)):
        monkeypatch.setattr(_native, name, value, raising=False)
    monkeypatch.setattr("care_accel.index.exact.require_cuda", lambda device: 0)
    index = ExactIndex(6, device="cuda")
    index.add(vectors_of(1_300))
    for search, queries in (
        (index.search, QueriesOnDevice.values),
        (index.search_on_device, QueriesOnDevice()),
    ):
        for limit in (0, 64):
            index._parts[0].scan.max_columns = limit
            search(queries, k=3)
            assert CopyInNumPy.columns == limit


def torch_with_a_gpu():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    return torch


def pair(vectors):
    """Return the same index on the CPU and on the GPU."""
    both = ExactIndex(vectors.shape[1]), ExactIndex(vectors.shape[1], device="cuda")
    for index in both:
        index.add(vectors)
    return both


def assert_same(cpu, gpu, queries, k, **options):
    expected = cpu.search_in_float64(queries, k, **options)
    found = gpu.search_in_float64(queries, k, **options)
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[0], expected[0])  # to the last bit: both sum in the same order
    return found


@on_a_gpu
@pytest.mark.parametrize("width", [1, 3, 63, 65, 768, 1024, 4096])
def test_shapes(width):
    rng = np.random.default_rng(width)
    cpu, gpu = pair(rng.standard_normal((9_001, width), dtype=np.float32))
    for count in (1, 5, 17, 70, 300):
        assert_same(cpu, gpu, rng.standard_normal((count, width), dtype=np.float32), 10)


@on_a_gpu
@pytest.mark.parametrize("width", [33, 768, 1024, 2560])
def test_the_number_of_columns_at_once_changes_no_bit(width):
    rng = np.random.default_rng(width)
    cpu, gpu = pair(rng.standard_normal((20_011, width), dtype=np.float32))
    for count in (65, 128, 129, 256, 300):
        queries = rng.standard_normal((count, width), dtype=np.float32)
        for limit in (0, 128, 64):
            for part in gpu._parts:
                part.scan.max_columns = limit
            assert_same(cpu, gpu, queries, 10)


@on_a_gpu
@pytest.mark.parametrize("rows", [0, 1, 31, 8192, 30_011])
def test_numbers_of_vectors_and_hits(rows):
    rng = np.random.default_rng(rows)
    cpu, gpu = pair(rng.standard_normal((rows, 40), dtype=np.float32))
    for k in (1, 10, 1024):
        assert_same(cpu, gpu, rng.standard_normal((3, 40), dtype=np.float32), k)


@on_a_gpu
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e17])
def test_scales_duplicates_and_zeros(scale):
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.standard_normal((500, 30), dtype=np.float32), 20, axis=0) * np.float32(scale)
    vectors[100:200] = 0
    cpu, gpu = pair(vectors)
    assert_same(cpu, gpu, np.concatenate([vectors[:5], np.zeros((1, 30), np.float32)]), 50)


@on_a_gpu
def test_queries_whose_pruning_fails():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((20_000, 30), dtype=np.float32)
    vectors[:, 0] *= 1e7
    queries = rng.standard_normal((20, 30), dtype=np.float32)
    queries[::2, 0] = 0
    _, _, rescored = assert_same(*pair(vectors), queries, 10)
    assert (rescored[::2] == 20_000).all()


@on_a_gpu
def test_prefixes_and_subsets():
    rng = np.random.default_rng(0)
    cpu, gpu = pair(rng.standard_normal((20_000, 300), dtype=np.float32))
    queries = rng.standard_normal((4, 300), dtype=np.float32)
    for width in (1, 64, 65, 256, 300):
        assert_same(cpu, gpu, queries, 10, width=width)
    for share in (0.0, 0.001, 0.3, 0.9):
        assert_same(cpu, gpu, queries, 10, subset=rng.random(20_000) < share)


@on_a_gpu
def test_vectors_that_are_added_later_are_found():
    rng = np.random.default_rng(0)
    cpu, gpu = pair(rng.standard_normal((100, 8), dtype=np.float32))
    query = rng.standard_normal((1, 8), dtype=np.float32)
    assert_same(cpu, gpu, query, 5)
    for index in (cpu, gpu):
        index.add(10 * query)
    _, ids, _ = assert_same(cpu, gpu, query, 5)
    assert ids[0, 0] == 100


@on_a_gpu
def test_shards_on_gpus_are_one_index():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((20_000, 20), dtype=np.float32)
    parts = []
    for start, gpu in ((0, 0), (9_000, GPUS - 1)):
        parts.append(ExactIndex(20, device=f"cuda:{gpu}"))
        parts[-1].add(vectors[start : 9_000 if start == 0 else None])
    cpu = ExactIndex(20)
    cpu.add(vectors)
    for found, expected in zip(Shards(parts).search(vectors[:9], 7), cpu.search(vectors[:9], 7), strict=True):
        np.testing.assert_array_equal(found, expected)


@on_a_gpu
def test_tensors_stay_on_the_gpu_and_on_the_callers_stream():
    torch = torch_with_a_gpu()
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((30_000, 64), dtype=np.float32)
    cpu, gpu = pair(vectors)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        # A matrix product first: a search on another stream would not wait for what it writes.
        queries = torch.from_numpy(vectors[:40]).cuda() @ torch.eye(64, device="cuda")
        scores, ids = gpu.search_on_device(queries, k=9)
    stream.synchronize()
    assert (scores.dtype, ids.dtype) == (torch.float32, torch.int64)
    assert scores.is_cuda
    expected = cpu.search(queries.cpu().numpy(), k=9)
    np.testing.assert_array_equal(scores.cpu().numpy(), expected[0])
    np.testing.assert_array_equal(ids.cpu().numpy(), expected[1])


@on_a_gpu
def test_a_query_that_is_no_number_leaves_the_others_alone():
    torch = torch_with_a_gpu()
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((20_000, 32), dtype=np.float32)
    cpu, gpu = pair(vectors)
    queries = torch.from_numpy(vectors[:4]).cuda()
    queries[1], queries[2] = float("nan"), float("inf")
    _, ids = gpu.search_on_device(queries, k=5)
    np.testing.assert_array_equal(ids.cpu().numpy()[[0, 3]], cpu.search(vectors[[0, 3]], k=5)[1])


@on_a_gpu
@pytest.mark.parametrize("change", [lambda q: q.double(), lambda q: q[0], lambda q: q[:, ::2], lambda q: q.T])
def test_tensors_of_another_kind_are_refused(change):
    torch = torch_with_a_gpu()
    gpu = pair(np.eye(32, dtype=np.float32))[1]
    with pytest.raises(CareError, match="queries"):
        gpu.search_on_device(change(torch.zeros((32, 32), device="cuda")))


@on_a_gpu
def test_more_hits_than_a_gpu_finds_are_refused():
    gpu = pair(np.eye(32, dtype=np.float32))[1]
    with pytest.raises(CareError, match="1,024 at most"):
        gpu.search(np.zeros((1, 32), np.float32), k=1025)


@on_a_gpu
def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(CareError, match=f"there are {GPUS} GPUs"):
        ExactIndex(3, device=f"cuda:{GPUS}")
