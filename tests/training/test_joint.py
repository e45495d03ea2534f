import numpy as np
import pytest
import torch

from care_accel import DualEncoder
from care_accel.training.joint import Slice, info_nce, inner_products, trainable

TEXTS = ["高血压怎么治", "骨折", "感冒发热怎么办，多饮水休息"]


class Given(torch.nn.Module):
    """Stands where the model is, and hands out vectors made before: the loss alone is looked at."""

    def forward(self, features):
        return features


def paper_loss(queries, positives, negatives, temperature):
    """InfoNCE in one direction in float64, over all documents of the batch."""
    documents = np.concatenate([positives, *negatives]).astype(np.float64)
    logits = queries.astype(np.float64) @ documents.T / temperature
    return np.mean(np.log(np.exp(logits).sum(axis=1)) - np.diag(logits[:, : len(queries)]))


@pytest.mark.parametrize("negatives", [0, 2])
def test_the_loss_is_the_paper_s_with_inner_products(negatives):
    rng = np.random.default_rng(0)
    columns = [(0.4 * rng.standard_normal((5, 7))).astype(np.float32) for _ in range(2 + negatives)]
    loss = info_nce(Given(), temperature=0.1)
    found = loss([{"sentence_embedding": torch.tensor(c)} for c in columns], torch.zeros(5))
    queries, positives, *others = columns
    assert float(found) == pytest.approx(paper_loss(queries, positives, others, 0.1), rel=1e-5)


def test_scores_are_no_cosines():
    one, two = torch.tensor([[3.0, 0.0]]), torch.tensor([[2.0, 5.0], [0.0, 1.0]])
    assert inner_products(one, two).tolist() == [[6.0, 0.0]]


def test_a_slice_is_kept_in_a_checkpoint(tmp_path):
    Slice(3).save(str(tmp_path))
    again = Slice.load(str(tmp_path))
    assert again({"sentence_embedding": torch.ones(2, 5)})["sentence_embedding"].shape == (2, 3)


@pytest.mark.parametrize("preset", ["care", "sentence-transformers"])
def test_training_sees_the_vectors_that_inference_gives(tiny_folders, preset):
    model = DualEncoder.from_pretrained(
        query=tiny_folders / "query_encoder",
        document=tiny_folders / "document_encoder",
        preset=preset,
        width=20,
    )
    library = trainable(model, {"query": 512, "document": 512})
    queries = [model.spec("query").format(text, "retrieval") for text in TEXTS]
    np.testing.assert_allclose(library.encode_query(queries), model.encode_query(TEXTS), atol=1e-5)
    np.testing.assert_allclose(library.encode_document(TEXTS), model.encode_document(TEXTS), atol=1e-5)
