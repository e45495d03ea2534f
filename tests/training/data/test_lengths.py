import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from care_accel.training.data.lengths import embed_by_length, groups_of_similar_length
from care_accel.training.recipe import DataFile, Stage
from care_accel.training.router import build_library_model


@given(st.lists(st.integers(1, 512), max_size=80))
def test_every_text_is_in_one_group_and_padding_is_a_quarter_at_most(lengths):
    groups = groups_of_similar_length(lengths)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    longest = [max(lengths[i] for i in group) for group in groups]
    assert longest == sorted(longest, reverse=True)
    for group in groups[:-1]:
        assert len(group) >= 8
        assert all(lengths[i] >= 0.75 * lengths[group[0]] for i in group[8:])
    assert not groups or len(groups) == 1 or len(groups[-1]) >= 8


def test_texts_of_one_length_are_one_group():
    assert groups_of_similar_length([7] * 50) == [list(range(50))]
    assert groups_of_similar_length([]) == []


@pytest.fixture(params=["query", "document"])
def library_model(request, tiny_model):
    stage = Stage(name="s", method="joint", data=(DataFile("x.jsonl"),), temperature=0.1)
    return build_library_model(tiny_model, stage, [request.param]).eval()


def test_vectors_and_gradients_are_those_of_one_pass(library_model):
    texts = ["头痛", "发热三天，咳嗽。" * 3, "胃", "糖尿病患者的饮食" * 6, "高血压怎么治？", "咳"] * 4
    columns = [library_model.preprocess(texts), library_model.preprocess([t[:9] + "吗" for t in texts[::-1]])]
    together = [library_model(dict(column))["sentence_embedding"] for column in columns]
    seen = []
    hook = library_model[0].register_forward_pre_hook(
        lambda module, given: seen.append(given[0]["attention_mask"])
    )
    grouped = embed_by_length(library_model, columns)
    hook.remove()
    assert len(seen) > 1
    assert all((mask.sum(dim=1).max() == mask.shape[1]) for mask in seen)
    assert sum(mask.numel() for mask in seen) < 0.65 * sum(c["attention_mask"].numel() for c in columns)
    weights = list(library_model.parameters())
    gradients = []
    for vectors in (together, grouped):
        loss = sum((i + 1) * (v[:, : i + 3] ** 3).sum() for i, v in enumerate(vectors))
        gradients.append(torch.autograd.grad(loss, weights, allow_unused=True))
    for one, other in zip(together, grouped, strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=0)
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-3)


def test_features_without_a_mask_are_embedded_as_they_are():
    class Doubling(torch.nn.Module):
        def forward(self, features):
            return {"sentence_embedding": 2 * features["vectors"]}

    vectors = torch.arange(6.0).view(3, 2)
    found = embed_by_length(Doubling(), [{"vectors": vectors}, {"vectors": vectors + 1}])
    assert [v.tolist() for v in found] == [(2 * vectors).tolist(), (2 * vectors + 2).tolist()]
