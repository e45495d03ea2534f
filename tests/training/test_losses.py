import numpy as np
import pytest
import torch

from care_accel.training.losses import Alignment, InfoNCE, LanguageModel, cosent, inner_products


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
    loss = InfoNCE(Given(), temperature=0.1)(features(vectors), None)
    loss.backward()
    queries, positives, *others = (v.detach().numpy() for v in vectors)
    expected, gradient = info_nce(queries, positives, others, 0.1)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(vectors[0].grad, gradient, rtol=1e-9, atol=1e-12)


def test_matryoshka_is_the_mean_over_cuts_that_are_not_normalised_again():
    vectors = columns(3)
    loss = InfoNCE(Given(), temperature=0.1, widths=[2, 7])(features(vectors), None)
    queries, positives, others = (v.detach().numpy() for v in vectors)
    cuts = [info_nce(queries[:, :w], positives[:, :w], [others[:, :w]], 0.1)[0] for w in (2, 7)]
    assert loss.item() == pytest.approx(np.mean(cuts), rel=1e-12)


def test_cosent_counts_pairs_of_rows_in_the_wrong_order():
    scores, grades = np.array([0.9, 0.2, 0.5, 0.5]), np.array([0.0, 1.0, 1.0, 2.0])
    wrong = [
        20 * (scores[i] - scores[j])
        for i in range(len(grades))
        for j in range(len(grades))
        if grades[i] < grades[j]
    ]
    expected = np.log1p(np.exp(wrong).sum())
    assert cosent(torch.tensor(scores), torch.tensor(grades)).item() == pytest.approx(expected, rel=1e-6)
    assert cosent(torch.tensor(scores), torch.ones(4)).item() == 0


def test_a_batch_with_grades_is_ordered_by_them():
    vectors = columns(2)
    grades = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0])
    loss = InfoNCE(Given(), temperature=0.1, mini_batch_size=2)(features(vectors), grades)
    loss.backward()
    expected = cosent((vectors[0] * vectors[1]).sum(dim=1), grades)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert vectors[0].grad.abs().sum() > 0


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


class Linear(torch.nn.Module):
    """An encoder of one matrix, whose texts are vectors already."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.matrix = torch.nn.Parameter(torch.randn(4, 6, dtype=torch.float64))

    def forward(self, features):
        return features | {"sentence_embedding": features["input_ids"] @ self.matrix}


@pytest.mark.parametrize("widths", [(), (2, 6)])
@pytest.mark.parametrize("mini_batch_size", [1, 3, 100])
def test_a_batch_larger_than_memory_has_the_same_loss_and_gradient(widths, mini_batch_size):
    texts = [{"input_ids": torch.randn(7, 4, dtype=torch.float64)} for _ in range(3)]
    found = []
    for size in (None, mini_batch_size):
        model = Linear()
        loss = InfoNCE(model, temperature=0.5, widths=widths, mini_batch_size=size)(texts, None)
        (2 * loss).backward()  # as a trainer that accumulates gradients scales it
        found.append((loss.item(), model.matrix.grad))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-10, atol=1e-12)


class Language(torch.nn.Module):
    """A network whose state of a token is a sum of token vectors: of those before it, or of all others' too."""

    def __init__(self, causal):
        super().__init__()
        torch.manual_seed(0)
        self.model = torch.nn.Embedding(9, 5, dtype=torch.float64)
        self.model.get_input_embeddings = lambda: self.model
        self.tokenizer = type("Tokenizer", (), {"mask_token_id": 2})()
        self.causal = causal
        self.read = None

    def __getitem__(self, module):
        return self

    def forward(self, features):
        self.read = features["input_ids"]
        vectors = self.model(self.read) * features["attention_mask"][:, :, None]
        states = vectors.cumsum(1) if self.causal else vectors.sum(1, keepdim=True).expand_as(vectors)
        return {"token_embeddings": states}


TOKENS = {
    "input_ids": torch.tensor([[3, 4, 5, 6], [0, 0, 7, 8]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]]),
}


def cross_entropy(state, vectors, token):
    logits = vectors @ state
    return np.log(np.exp(logits).sum()) - logits[token]


def test_a_causal_network_is_asked_for_every_next_token_and_for_no_padding():
    model = Language(causal=True)
    loss = LanguageModel(model, causal=True, mask_ratio=0.5)([TOKENS])
    vectors = model.model.weight.detach().numpy()
    expected = [
        cross_entropy(sum(vectors[t] for t in before), vectors, aim)
        for before, aim in [((3,), 4), ((3, 4), 5), ((3, 4, 5), 6), ((7,), 8)]
    ]
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-6)


@pytest.mark.parametrize("mask_ratio", [1e-9, 0.4, 0.99])
def test_another_network_is_asked_for_the_tokens_that_it_does_not_see(mask_ratio):
    model = Language(causal=False)
    torch.manual_seed(1)
    loss = LanguageModel(model, causal=False, mask_ratio=mask_ratio)([TOKENS])
    vectors, read = model.model.weight.detach().numpy(), model.read
    hidden = [(row, at) for row in range(2) for at in range(4) if read[row, at] == 2]
    assert hidden  # even where chance picks none
    assert all(TOKENS["attention_mask"][place] for place in hidden)
    assert bool((read == TOKENS["input_ids"])[read != 2].all())
    seen = read.numpy()
    expected = [
        cross_entropy(
            sum(vectors[t] for t, real in zip(seen[row], TOKENS["attention_mask"][row], strict=True) if real),
            vectors,
            TOKENS["input_ids"][row, at],
        )
        for row, at in hidden
    ]
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-6)
