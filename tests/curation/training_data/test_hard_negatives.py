import numpy as np
import pytest

from care_accel import CareError, DualEncoder
from care_accel.curation.training_data.hard_negatives import (
    drop_likely_positives,
    fused_candidates,
    judge_candidates,
)
from care_accel.index import BM25Index, ExactIndex
from care_accel.index.fusion import reciprocal_rank_fusion

QUERIES = ["高血压怎么治", "糖尿病吃什么"]
DOCUMENTS = [f"文档{i}" for i in range(12)]
CANDIDATES = np.array([[3, 1, 4, 0, 5, 9, -1], [2, 7, 1, 8, 6, -1, -1]])


class Truth:
    """A judge that knows the answers, and counts what it is asked."""

    def __init__(self, answers, nobody_knows=()):
        self.answers, self.nobody_knows, self.asked, self.calls = answers, nobody_knows, [], 0

    def __call__(self, pairs):
        self.calls += 1
        self.asked += pairs
        return [None if pair in self.nobody_knows else pair in self.answers for pair in pairs]


def test_a_candidate_that_answers_is_no_negative():
    judge = Truth({(QUERIES[0], "文档1"), (QUERIES[0], "文档4"), (QUERIES[1], "文档7")})
    found = judge_candidates(QUERIES, DOCUMENTS, CANDIDATES, [{0}, set()], judge, count=3)
    assert [one.negatives for one in found] == [[3, 5, 9], [2, 1, 8]]
    assert [one.false_negatives for one in found] == [[1, 4], [7]]


def test_known_answers_and_what_comes_behind_enough_negatives_are_not_judged():
    judge = Truth(set())
    found = judge_candidates(QUERIES, DOCUMENTS, CANDIDATES, [{3, 4}, {8}], judge, count=2)
    assert judge.asked == [
        (QUERIES[0], "文档1"),
        (QUERIES[0], "文档0"),
        (QUERIES[1], "文档2"),
        (QUERIES[1], "文档7"),
    ]
    assert judge.calls == 1
    assert [one.negatives for one in found] == [[1, 0], [2, 7]]


def test_what_nobody_could_judge_is_neither():
    judge = Truth(set(), nobody_knows={(QUERIES[0], "文档3")})
    found = judge_candidates(QUERIES, DOCUMENTS, CANDIDATES, [set(), set()], judge, count=2)
    assert found[0].undecided == [3]
    assert found[0].negatives == [1, 4]


def test_no_pair_is_judged_twice_and_a_query_may_run_out_of_candidates():
    judge = Truth({(query, text) for query in QUERIES for text in DOCUMENTS})
    found = judge_candidates(QUERIES, DOCUMENTS, CANDIDATES, [set(), set()], judge, count=4)
    assert [one.negatives for one in found] == [[], []]
    assert len(judge.asked) == len(set(judge.asked)) == 11


def test_a_judge_that_answers_another_number_of_pairs_is_refused():
    with pytest.raises(CareError, match="returned 1 judgements for 4 pairs"):
        judge_candidates(QUERIES, DOCUMENTS, CANDIDATES, [set(), set()], lambda pairs: [True], count=2)


class Scored:
    """A model by which document i scores i / 10 for every query."""

    name, width = "scored", 1

    def encode_query(self, texts):
        return np.ones((len(texts), 1), dtype=np.float32)

    def encode_document(self, texts):
        return np.array([[int(text.removeprefix("文档")) / 10] for text in texts], dtype=np.float32)


@pytest.mark.parametrize(
    ("margin", "kept"), [(0.0, [3, 1, 4, 0, -1, -1, -1]), (0.25, [3, 1, -1, 0, -1, -1, -1])]
)
def test_only_candidates_far_enough_below_the_lowest_answer_stay(monkeypatch, margin, kept):
    monkeypatch.setattr(DualEncoder, "from_pretrained", lambda name: Scored())
    before = CANDIDATES.copy()
    found = drop_likely_positives(QUERIES, DOCUMENTS, CANDIDATES, [[11, 4], []], "scored", margin)
    assert found[0].tolist() == kept
    assert found[1].tolist() == CANDIDATES[1].tolist()  # no answer is known
    assert (before == CANDIDATES).all()


def test_candidates_are_both_rankings_fused(tiny_model, monkeypatch):
    monkeypatch.setattr(DualEncoder, "from_pretrained", lambda name: tiny_model)
    documents = [
        "高血压患者应低盐饮食",
        "糖尿病患者要控制主食",
        "感冒发热怎么办",
        "胃炎患者饮食清淡",
        "骨折后应固定",
    ]
    index = ExactIndex(tiny_model.width)
    index.add(tiny_model.encode_document(documents))
    rankings = [
        index.search(tiny_model.encode_query(QUERIES), k=3)[1],
        BM25Index(documents).search(QUERIES, k=3)[1],
    ]
    found = fused_candidates(QUERIES, documents, "tiny", depth=3)
    assert (found == reciprocal_rank_fusion(rankings, 3)[1]).all()
