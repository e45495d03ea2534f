import random

import pytest

from care_accel import CareError
from care_accel.curation.texts.containment import ContainmentIndex
from care_accel.curation.texts.duplicates import normalise


def test_a_part_is_found_whatever_its_form_and_the_longest_comes_first():
    parts = ContainmentIndex(
        ["高血压病人能喝酒吗", "高血压病人能喝酒吗？可以少喝 ABC", "没有出现过的句子在此"], 6
    )
    found = parts.find_in("请问：高血压 病人 能喝酒吗，可以少喝 abc 吗")
    assert list(found) == [1, 0]
    assert found[0] == pytest.approx(9 / 19)


def test_the_whole_text_and_what_is_too_short_are_no_parts():
    parts = ContainmentIndex(["高血压怎么治疗", "怎么治疗"], 5)
    assert parts.find_in("高血压怎么治疗？") == {}
    assert list(parts.find_in("老人高血压怎么治疗")) == [0]
    assert parts.find_in("") == {}
    with pytest.raises(CareError, match="min_characters"):
        ContainmentIndex([], 0)


@pytest.mark.parametrize("shortest", [1, 3, 5])
def test_all_parts_are_found_that_a_search_for_each_finds(shortest):
    rng = random.Random(shortest)
    few = "头痛发热5.-"

    def text(longest):
        return "".join(rng.choice(few) for _ in range(rng.randint(0, longest)))

    texts = [text(8) for _ in range(200)]
    parts = ContainmentIndex(texts, shortest)
    for whole in (text(30) for _ in range(200)):
        folded = normalise(whole)
        wanted = {
            number
            for number, one in enumerate(map(normalise, texts))
            if len(one) >= shortest and one in folded and one != folded
        }
        assert set(parts.find_in(whole)) == wanted
