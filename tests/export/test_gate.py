import numpy as np
import pytest

from care_accel.export import Gate, Limits, Metrics
from care_accel.export.gate import batch_change

GOOD = {
    "texts": 3,
    "mean_cosine": 1.0,
    "worst_cosine": 0.996,
    "top10_overlap": 0.96,
    "ndcg_before": 50.0,
    "ndcg_after": 50.3 - 1e-9,
    "batch_change": 0.0,
    "with_unknown_tokens": 0,
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"worst_cosine": 0.9949}, "worst cosine 0.99490 is below 0.995"),
        ({"top10_overlap": 0.949}, "top-10 overlap 0.9490 is below 0.95"),
        ({"ndcg_after": 49.69}, "nDCG@10 went from 50.00 to 49.69, more than 0.3 points"),
        ({"worst_cosine": float("nan")}, "worst cosine nan"),
    ],
)
def test_a_figure_beyond_its_limit_is_told_with_both(changes, words):
    found = Metrics(**GOOD | changes).failures(Limits())
    assert found == ([] if words is None else found)
    assert words is None or (len(found) == 1 and words in found[0])


def test_half_precision_has_a_batch_limit_of_its_own_unless_one_is_given():
    assert Limits().batch("int8") == Limits().batch("float32") == 1e-5
    assert Limits().batch("float16") > 1e-5
    assert Limits(batch_change=0.5).batch("float16") == 0.5


@pytest.mark.parametrize("role", ["query", "document"])
def test_the_original_itself_is_no_distance_away(original, dev, role):
    found = Gate(original, dev).measure(original.encoder(role), role)
    assert found.texts == len(dev.queries if role == "query" else dev.documents)
    assert found.worst_cosine == pytest.approx(1)
    assert found.top10_overlap == 1
    assert found.ndcg_before == found.ndcg_after
    assert found.batch_change < 1e-5


class Spoiled:
    """A runtime whose vectors are turned about, or depend on their batch."""

    device = "cpu"

    def __init__(self, runtime, spoil):
        self.runtime, self.spoil = runtime, spoil

    def __call__(self, ids, mask):
        return self.spoil(self.runtime(ids, mask))


def spoiled(model, role, spoil):
    from care_accel.encoding import Encoder

    encoder = model.encoder(role)
    return Encoder(encoder.spec, encoder.tokenizer, Spoiled(encoder.runtime, spoil))


def test_figures_equal_plain_references(original, dev):
    from sklearn.metrics import ndcg_score

    spoil = np.random.default_rng(0).normal(size=(24, 24)).astype(np.float32)
    encoder = spoiled(original, "document", lambda v: v + 0.5 * v @ spoil)
    found = Gate(original, dev).measure(encoder, "document")
    texts = list(dev.documents.values())
    before, after = original.encode_document(texts).astype(float), encoder.encode(texts).astype(float)
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(before, after, strict=True)]
    assert found.worst_cosine == pytest.approx(min(cosines))
    assert found.mean_cosine == pytest.approx(np.mean(cosines))
    queries = original.encode_query(list(dev.queries.values())).astype(float)
    relevant = [[dev.relevant[q].get(d, 0) for d in dev.documents] for q in dev.queries]
    assert found.ndcg_before == pytest.approx(100 * ndcg_score(relevant, queries @ before.T, k=10))
    assert found.ndcg_after == pytest.approx(100 * ndcg_score(relevant, queries @ after.T, k=10))


def test_the_overlap_is_the_share_of_the_best_that_stay(original, dev, monkeypatch):
    monkeypatch.setattr("care_accel.export.gate._DEPTH", 2)
    encoder = spoiled(original, "query", lambda v: -v)
    found = Gate(original, dev).measure(encoder, "query")
    vectors = original.encode_document(list(dev.documents.values()))
    scores = original.encode_query(list(dev.queries.values())) @ vectors.T
    shares = [len({*np.argsort(-s)[:2]} & {*np.argsort(s)[:2]}) / 2 for s in scores]
    assert found.top10_overlap == pytest.approx(np.mean(shares))
    assert found.worst_cosine == pytest.approx(-1)


def test_a_runtime_that_scales_by_its_batch_is_found_out(original):
    texts = ["头痛", "高血压患者应低盐饮食", "血糖高吃什么？" * 5]
    assert batch_change(original.encoder("query"), texts) < 1e-5
    scaled = spoiled(original, "query", lambda v: v * (1 + 1e-3 * len(v)))
    assert batch_change(scaled, texts) > 1e-4


def test_given_texts_are_those_whose_cosines_are_taken(original, dev, monkeypatch):
    monkeypatch.setattr("care_accel.export.gate._MAX_TEXTS", 5)
    found = Gate(original, dev, ["头痛", "感冒"] * 9).measure(original.encoder("query"), "query")
    assert found.texts == 5
