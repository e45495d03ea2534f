"""Postings are those that counting the grams of each document gives, however they came about."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from care_accel.index.lexical import postings as module
from care_accel.index.lexical.grams import character_grams, folded, packed_grams
from care_accel.index.lexical.postings import Postings, joined

TEXTS = st.lists(st.text("血压高 aA，，😀𠀀\0é", max_size=8), max_size=8)


def of(texts):
    return Postings.of([folded(text) for text in texts])


def contents(postings):
    """Return for each gram its documents and frequencies."""
    spans = zip(postings.offsets[:-1], postings.offsets[1:], strict=True)
    return {
        gram: (postings.documents[low:high].tolist(), postings.frequencies[low:high].tolist())
        for gram, (low, high) in zip(postings.grams.tolist(), spans, strict=True)
    }


def counted(texts):
    """Return the same by counting."""
    found = defaultdict(lambda: ([], []))
    for document, text in enumerate(texts):
        grams, repeated = packed_grams(text)
        for gram, times in zip(grams.tolist(), repeated.tolist(), strict=True):
            found[gram][0].append(document)
            found[gram][1].append(times)
    return dict(found)


def assert_equal(postings, texts):
    assert contents(postings) == counted(texts)
    assert postings.grams.tolist() == sorted(postings.grams.tolist())
    assert postings.lengths.tolist() == [len(character_grams(text)) for text in texts]
    dtypes = [
        array.dtype for array in (postings.grams, postings.offsets, postings.documents, postings.lengths)
    ]
    assert dtypes == [np.uint64, np.int64, np.int32, np.int32]


@settings(deadline=None)
@given(TEXTS)
def test_postings_are_the_counts_of_the_grams(texts):
    assert_equal(of(texts), texts)


@settings(deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_joined_parts_are_those_of_all_documents(parts):
    assert_equal(joined([of(texts) for texts in parts]), [text for texts in parts for text in texts])


def test_parts_are_joined_in_pieces(monkeypatch):
    monkeypatch.setattr(module, "_PIECE", 3)
    texts = ["高血压", "血压血压", "", "压"]
    assert_equal(joined([of(texts), of(texts[:2])]), texts + texts[:2])


@settings(deadline=None)
@given(TEXTS, st.data())
def test_documents_are_moved_and_left_out(texts, data):
    stays = data.draw(st.lists(st.booleans(), min_size=len(texts), max_size=len(texts)))
    gap = data.draw(st.integers(0, 2))
    places = np.where(stays, np.cumsum(stays) - 1 + gap, -1).astype(np.int32)
    kept = [""] * gap + [text for text, stay in zip(texts, stays, strict=True) if stay]
    assert_equal(of(texts).moved(places, len(kept)), kept)


@pytest.mark.parametrize(("times", "dtype"), [(255, np.uint8), (256, np.uint16), (2**16, np.uint32)])
def test_frequencies_take_as_many_bytes_as_they_need(times, dtype):
    texts = ["压" * times, "a"]
    postings = of(texts)
    assert postings.frequencies.dtype == dtype
    assert_equal(postings, texts)
    assert_equal(joined([of(["b"]), postings]), ["b", *texts])


def test_more_characters_than_16_bits_number_are_sorted_too():
    every = [chr(code) for code in range(0x20000, 0x20000 + 2**16 + 5)]
    texts = ["".join(every), "".join(reversed(every[-5:]))]
    postings = of(texts)
    assert len(postings.grams) == len(set(character_grams(texts[0]) + character_grams(texts[1])))
    where = postings.find(np.array([ord(every[-1]), ord("a")], np.uint64))
    begins, ends = (bounds.tolist() for bounds in where)
    assert postings.documents[begins[0] : ends[0]].tolist() == [0, 1]
    assert begins[1] == ends[1]


def test_a_gram_of_no_document_is_found_nowhere():
    for texts in (["血"], [""], []):
        begins, ends = of(texts).find(np.array([0, ord("a"), 2**63], np.uint64))
        assert begins.tolist() == ends.tolist()
