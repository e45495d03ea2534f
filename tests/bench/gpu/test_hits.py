import numpy as np
import pytest
import torch

from bench.gpu import hits
from care_accel import ExactIndex
from care_accel.encoding import EncoderSpec
from care_accel.encoding.runtimes.pytorch import PyTorchRuntime

WIDTH, K, WITHIN = 16, 5, 0.01


@pytest.fixture(scope="module")
def index():
    vectors = np.random.default_rng(0).normal(size=(500, WIDTH)).astype(np.float32)
    index = ExactIndex(WIDTH)
    index.add(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    return index


@pytest.fixture(scope="module")
def queries(make_encoder, tmp_path_factory):
    """Return vectors of a tiny network, as `test_gpu_retriever` takes them from one at true size."""
    from transformers import AutoModel

    network = AutoModel.from_pretrained(make_encoder(tmp_path_factory.mktemp("gte"), "gte")).eval()
    spec = EncoderSpec(pooling="first", order="slice-then-normalize", width=WIDTH, device="cpu")
    ids = np.random.default_rng(1).integers(5, 40, (6, 8))
    return PyTorchRuntime(network, spec).on_device(ids, np.ones_like(ids))


@pytest.fixture
def pieces(index):
    vectors = torch.from_numpy(np.array(index.vectors))
    return [(start, vectors[start : start + 200]) for start in (0, 200, 400)]


@pytest.mark.parametrize("rounded", [torch.float32, torch.bfloat16])
def test_what_the_index_finds_passes_although_queries_were_rounded(index, queries, pieces, rounded):
    found = index.search(queries.to(rounded).float().numpy(), K)[1]
    hits.check(torch.from_numpy(found), queries, pieces, WITHIN)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda ids: ids.roll(1, 0), "below what is there"),  # another query's
        (lambda ids: ids.flip(1), "below what is there"),  # the worst first
        (lambda ids: (ids + 1) % 500, "below what is there"),  # a wrong offset
        (lambda ids: ids[:, [0, 0, 1, 2, 3]], "the same document twice"),
        (lambda ids: ids + 500, "an id of no document"),
    ],
)
def test_wrong_hits_are_refused(index, queries, pieces, spoil, words):
    found = torch.from_numpy(index.search(queries.numpy(), K)[1])
    with pytest.raises(AssertionError, match=words):
        hits.check(spoil(found), queries, pieces, WITHIN)


def test_scores_and_ids_come_back_from_one_tensor():
    scores = torch.tensor([[1.5, -0.0, float("inf")], [2.0, float("-inf"), 1e-40]])
    ids = torch.tensor([[0, 2**40, -1], [7, 2**31, 9]])
    back, numbers = hits.parted(hits.joined(scores, ids).numpy())
    np.testing.assert_array_equal(back, scores.numpy())
    np.testing.assert_array_equal(numbers, ids.numpy())
