import math
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from care_accel import CareError
from care_accel.index.bm25 import BM25Index
from care_accel.index.lexical.grams import character_grams

DOCUMENTS = ["高血压要低盐饮食", "低血压要注意休息", "糖尿病控制主食", "", "高血压高血压"]


def reference(query, documents, k1=1.2, b=0.75):
    """BM25 with Lucene's inverse document frequency, written out in float64."""
    rows = [Counter(character_grams(d)) for d in documents]
    mean = sum(sum(row.values()) for row in rows) / len(rows)
    scores = []
    for row in rows:
        score = 0.0
        for gram in character_grams(query):
            n = sum(gram in other for other in rows)
            idf = math.log(1 + (len(rows) - n + 0.5) / (n + 0.5))
            score += (
                idf * row[gram] / (row[gram] + k1 * (1 - b + b * sum(row.values()) / mean))
                if row[gram]
                else 0
            )
        scores.append(score)
    return np.array(scores)


@pytest.mark.parametrize("query", ["高血压", "血压休息", "糖", "主食主食"])
def test_scores_are_the_formula_s(query):
    np.testing.assert_allclose(BM25Index(DOCUMENTS).scores(query), reference(query, DOCUMENTS), rtol=1e-5)


def test_hits_are_sorted_and_end_where_no_term_is_shared():
    scores, ids = BM25Index(DOCUMENTS).search(["高血压", "xyz"], k=5)
    assert list(ids[0]) == [4, 0, 1, -1, -1]
    assert list(np.diff(scores[0][:3]) < 0) == [True, True]
    assert list(scores[0][3:]) == [-np.inf, -np.inf]
    assert list(ids[1]) == [-1] * 5
    assert (scores.dtype, ids.dtype, scores.shape) == (np.float32, np.int64, (2, 5))


def test_equal_scores_come_by_smaller_id():
    _, ids = BM25Index(["头痛", "发热", "头痛", "头痛"]).search(["头痛"], k=4)
    assert list(ids[0]) == [0, 2, 3, -1]


@pytest.mark.parametrize("documents", [[], ["", " "]])
def test_an_index_without_terms_finds_nothing(documents):
    index = BM25Index(documents)
    assert len(index) == len(documents)
    assert list(index.search(["头痛"], k=2)[1][0]) == [-1, -1]


@pytest.mark.parametrize("documents", [DOCUMENTS, [], ["", " "]])
def test_a_saved_index_finds_the_same(documents, tmp_path):
    index = BM25Index(documents)
    index.save(tmp_path / "bm25")
    loaded = BM25Index.load(tmp_path / "bm25")
    assert len(loaded) == len(documents)
    for ours, theirs in zip(loaded.search(["高血压", "xyz"]), index.search(["高血压", "xyz"]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_index_of_release_0_1_is_replaced_by_one_of_today(tmp_path):
    saved = Path(__file__).parents[1] / "data" / "retriever-0.1" / "words"
    shutil.copytree(saved, tmp_path / "bm25")
    index = BM25Index.load(tmp_path / "bm25")
    index.save(tmp_path / "bm25")
    assert sorted(file.name for file in (tmp_path / "bm25").iterdir()) == ["bm25.json", "bm25s"]
    for ours, theirs in zip(
        BM25Index.load(tmp_path / "bm25").search(["高血压"]),
        BM25Index.load(saved).search(["高血压"]),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_a_saved_index_that_is_not_whole_is_refused(tmp_path):
    BM25Index(DOCUMENTS).save(tmp_path / "bm25")
    file = next((tmp_path / "bm25" / "bm25s").glob("data*"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CareError, match=f"{file.name}: is missing or does not have"):
        BM25Index.load(tmp_path / "bm25")
    with pytest.raises(CareError, match="no such file; a saved BM25 index has one"):
        BM25Index.load(tmp_path)


def test_k_below_1_is_refused():
    with pytest.raises(CareError, match="k is 0"):
        BM25Index(DOCUMENTS).search(["高血压"], k=0)


def test_a_subset_is_ranked_alone_with_the_scores_of_all():
    index = BM25Index(["头痛", "头痛发热", "头痛", "骨折"])
    scores, ids = index.search(["头痛"], k=4)
    assert ids.tolist() == [[0, 2, 1, -1]]
    for subset in ([2, 1], [False, True, True, False]):
        some = index.search(["头痛"], k=3, subset=subset)
        assert some[1].tolist() == [[2, 1, -1]]
        assert some[0][0, :2].tolist() == scores[0, 1:3].tolist()
    with pytest.raises(CareError, match="subset contains id 4"):
        index.search(["头痛"], subset=[4])
