import numpy as np
import pytest
import torch

from care_accel.training.losses import Alignment, InfoNCE, inner_products


class Given(torch.nn.Module):
    """Stands where the model is, and hands out vectors made before: the loss alone is looked at."""

    def forward(self, features):
        return features


def columns(count, rows=5, width=7):
    rng = np.random.default_rng(0)
    return [torch.tensor(0.4 * rng.standard_normal((rows, width)), requires_grad=True) for _ in range(count)]


def features(vectors):
    return [{"sentence_embedding": v} for v in vectors]


def info_nce(queries, positives, negatives, temperature):
    """InfoNCE in one direction, over all documents of the batch, and its gradient at the queries."""
    documents = np.concatenate([positives, *negatives])
    logits = queries @ documents.T / temperature
    weights = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    loss = np.mean(np.log(np.exp(logits).sum(axis=1)) - np.diag(logits[:, : len(queries)]))
    return loss, (weights @ documents - positives) / temperature / len(queries)


@pytest.mark.parametrize("negatives", [0, 2])
def test_info_nce_and_its_gradient_are_the_paper_s_with_inner_products(negatives):
    vectors = columns(2 + negatives)
    loss = InfoNCE(Given(), temperature=0.1)(features(vectors), torch.zeros(5))
    loss.backward()
    queries, positives, *others = (v.detach().numpy() for v in vectors)
    expected, gradient = info_nce(queries, positives, others, 0.1)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(vectors[0].grad, gradient, rtol=1e-9, atol=1e-12)


def test_matryoshka_is_the_mean_over_cuts_that_are_not_normalised_again():
    vectors = columns(3)
    loss = InfoNCE(Given(), temperature=0.1, widths=[2, 7])(features(vectors), torch.zeros(5))
    queries, positives, others = (v.detach().numpy() for v in vectors)
    cuts = [info_nce(queries[:, :w], positives[:, :w], [others[:, :w]], 0.1)[0] for w in (2, 7)]
    assert loss.item() == pytest.approx(np.mean(cuts), rel=1e-12)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.0, 2.0), (0.5, 0.0)])
def test_alignment_is_info_nce_and_the_squared_distance_and_does_not_move_the_teacher(weights):
    ours, theirs = columns(2)
    loss = Alignment(Given(), 0.1, *weights)(features([ours]), theirs)
    loss.backward()
    a, b = ours.detach().numpy(), theirs.detach().numpy()
    contrast, gradient = info_nce(a, b, [], 0.1)
    distance = np.mean(np.sum((a - b) ** 2, axis=1))
    assert loss.item() == pytest.approx(weights[0] * contrast + weights[1] * distance, rel=1e-6)
    expected = weights[0] * gradient + weights[1] * 2 * (a - b) / len(a)
    np.testing.assert_allclose(ours.grad, expected, rtol=1e-5, atol=1e-7)
    assert theirs.grad is None


def test_scores_are_no_cosines():
    one, two = torch.tensor([[3.0, 0.0]]), torch.tensor([[2.0, 5.0], [0.0, 1.0]])
    assert inner_products(one, two).tolist() == [[6.0, 0.0]]
