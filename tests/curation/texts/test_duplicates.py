import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from care_accel import CareError
from care_accel.curation.texts import duplicates
from care_accel.curation.texts.duplicates import (
    find_exact_duplicates,
    find_near_duplicates,
    find_near_references,
    normalise,
    similarity,
)

LETTERS = "高血压糖尿病怎么治疗发热头痛孕妇儿童可以吃什么药检查结果偏低患者应注意休息饮水"


def random_texts(rng, count, shortest=20, longest=60):
    return ["".join(rng.choice(list(LETTERS), rng.integers(shortest, longest))) for _ in range(count)]


def grams(text):
    folded = normalise(text)
    return {folded[i : i + 3] for i in range(max(1, len(folded) - 2))}


def by_hand(texts, threshold):
    """Return what `find_near_duplicates` promises, by comparing everything with everything."""
    of, kept = [], []
    for position, text in enumerate(texts):
        own = grams(text)
        alike = [(len(own & grams(texts[k])) / len(own | grams(texts[k])), -k) for k in kept]
        best = max(alike, default=(0, 0))
        of.append(-best[1] if best[0] >= threshold else -1)
        if of[-1] < 0:
            kept.append(position)
    return of


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("高血压怎么治？", "高血压怎么治"),
        ("Ｔ３、Ｔ４ 偏低", "t3t4偏低"),
        (" 头痛\n头晕。。。", "头痛头晕"),
        ("\u200b孕妇“感冒”", "孕妇感冒"),
    ],
)
def test_form_alone_makes_no_other_text(one, other):
    assert find_exact_duplicates([one, other]).tolist() == [-1, 0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("每次3.5片", "每次35片"),
        ("乙肝抗原(+)", "乙肝抗原(-)"),
        ("血糖<7", "血糖>7"),
        ("升高5%", "升高5"),
        ("1-2片", "12片"),
        ("1/2片", "12片"),
    ],
)
def test_what_changes_the_meaning_makes_another_text(one, other):
    assert find_exact_duplicates([one, other]).tolist() == [-1, -1]


@given(st.text(max_size=40))
def test_normalising_again_changes_nothing_that_compares(text):
    once = normalise(text)
    assert normalise(unicodedata.normalize("NFKC", once)) == normalise(once)
    assert not any(character.isspace() for character in once)


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95])
def test_near_duplicates_are_those_of_comparing_everything(threshold):
    rng = np.random.default_rng(7)
    texts = random_texts(rng, 60)
    for source in list(texts):
        for edits in (1, 2, 6):
            edited = list(source)
            for place in rng.integers(0, len(edited), edits):
                edited[place] = rng.choice(list(LETTERS))
            texts.append("".join(edited))
        texts.append(source + rng.choice(list(LETTERS)))
    rng.shuffle(texts)
    expected = by_hand(texts, threshold)
    found = find_near_duplicates(texts, threshold)
    assert sum(of >= 0 for of in expected) > 20
    # Nothing is found that is none; of what is one, next to nothing is overlooked.
    for position, of in enumerate(found.of.tolist()):
        if of >= 0:
            assert of < position
            assert found.of[of] < 0
            assert found.similarity[position] == similarity(texts[position], texts[of]) >= threshold
    missed = [p for p, of in enumerate(expected) if (of >= 0) != (found.of[p] >= 0)]
    assert len(missed) <= 0.01 * len(texts)


def test_the_same_texts_give_the_same_result():
    texts = [text[:9] for text in random_texts(np.random.default_rng(3), 20)] * 2
    first, second = find_near_duplicates(texts, 0.4), find_near_duplicates(texts, 0.4)
    assert (first.of == second.of).all()
    assert (first.of >= 0).any()


def test_references_are_never_left_out_and_texts_are_compared_with_them_only():
    text = "糖尿病患者要控制主食，监测血糖，适量运动"
    references = [text, text, "感冒发热怎么办多饮水休息"]
    near = find_near_references([text + "。", text, "骨折后应固定并尽快就医拍片"], references, 0.8)
    assert near.of.tolist() == [0, 0, -1]
    assert near.similarity.tolist() == [1.0, 1.0, 0.0]


def test_without_references_nothing_is_near():
    assert find_near_references(["头痛怎么办", "头痛怎么办"], []).of.tolist() == [-1, -1]


def test_texts_without_words_and_short_ones_are_compared_too():
    near = find_near_duplicates(["", "。", "痛", "头痛", "头痛", "头疼"], 0.8)
    assert near.of.tolist() == [-1, 0, -1, -1, 3, -1]


def test_texts_that_share_a_template_are_compared_with_few_and_their_copies_are_found(monkeypatch):
    rng = np.random.default_rng(0)
    template = "您好根据您的描述这种情况建议您到正规医院就诊检查明确诊断后再治疗平时注意休息清淡饮食祝您健康"
    texts = [template + "".join(rng.choice(list(LETTERS), 14)) for _ in range(800)]
    compared = []
    inner = duplicates._jaccard
    monkeypatch.setattr(duplicates, "_jaccard", lambda *grams: compared.append(1) or inner(*grams))
    near = find_near_duplicates([*texts, *(text[:-1] + "末" for text in texts)], 0.9)
    assert len(compared) <= 100 * 2 * len(texts)  # with each other they are 1,279,200 pairs
    assert (near.of[:800] == -1).all()
    assert (near.of[800:] >= 0).all()


@pytest.mark.parametrize("threshold", [0, -1, 1.1, float("nan")])
def test_a_threshold_that_is_none_is_refused(threshold):
    with pytest.raises(CareError, match="near-duplicate threshold"):
        find_near_duplicates(["头痛"], threshold)


@settings(max_examples=30)
@given(st.lists(st.text(alphabet="头痛发热3.5 。+", max_size=8), max_size=12))
def test_what_repeats_exactly_repeats_nearly(texts):
    exact, near = find_exact_duplicates(texts), find_near_duplicates(texts, 1.0)
    assert ((exact < 0) | (near.of >= 0)).all()
