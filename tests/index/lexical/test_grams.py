from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from care_accel.index.lexical.grams import character_grams, packed_grams


def number(gram):
    """Return a gram as a number, from the code points of its characters."""
    codes = [ord(character) for character in gram]
    return codes[0] if len(codes) == 1 else (codes[0] + 1 << 21) + codes[1]


def test_text_is_cut_into_characters_and_pairs_without_spaces():
    assert character_grams("血 压Ａ") == ["血", "压", "a", "血压", "压a"]
    assert character_grams(" ") == []


@settings(deadline=None)
@given(st.text())
def test_packed_grams_are_the_grams_as_numbers(text):
    grams, repeated = packed_grams(text)
    expected = Counter(map(number, character_grams(text)))
    assert grams.dtype == np.uint64
    assert grams.tolist() == sorted(expected)
    assert repeated.tolist() == [expected[gram] for gram in sorted(expected)]


def test_a_lone_surrogate_and_the_first_and_last_code_points_are_characters():
    for text in ("\ud800血", "\0\0a", "\U0010ffff\U0010ffff"):
        grams, _ = packed_grams(text)
        assert grams.tolist() == sorted({number(gram) for gram in character_grams(text)})
