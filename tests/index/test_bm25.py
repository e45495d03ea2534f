import math
from collections import Counter

import numpy as np
import pytest

from care_accel.index.bm25 import BM25Index, character_grams

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


def test_text_is_cut_into_characters_and_pairs_without_spaces():
    assert character_grams("血 压Ａ") == ["血", "压", "a", "血压", "压a"]
    assert character_grams(" ") == []


@pytest.mark.parametrize("query", ["高血压", "血压休息", "糖", "主食主食"])
def test_scores_are_the_formula_s(query):
    np.testing.assert_allclose(BM25Index(DOCUMENTS).scores(query), reference(query, DOCUMENTS), rtol=1e-5)


def test_hits_are_sorted_and_end_where_no_word_is_shared():
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
def test_an_index_without_words_finds_nothing(documents):
    index = BM25Index(documents)
    assert len(index) == len(documents)
    assert list(index.search(["头痛"], k=2)[1][0]) == [-1, -1]
