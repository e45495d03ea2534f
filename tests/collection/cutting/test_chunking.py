"""Cutting texts into chunks, with made-up tokens and with those of real tokenizers."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from care_accel import CareError
from care_accel.collection.cutting.chunking import Span, cut, cut_texts, token_starts

WORDS = st.sampled_from(
    [*"头痛，。！？；、…”） \n.a3e\u0301\u200d👨🇨", "Dr. ", "3.5", "高血压", "abc", "\r\n", "\ud83d"]
)
TEXTS = st.lists(WORDS, max_size=120).map("".join)


@st.composite
def tokenised(draw):
    """Return a text and token starts as tokenizers give them: some characters have several tokens, some none of their own."""
    text = draw(TEXTS)
    counts = draw(st.lists(st.sampled_from([0, 1, 1, 1, 1, 3]), min_size=len(text), max_size=len(text)))
    return text, [place for place, count in enumerate(counts) for _ in range(count)]


def tokens_of(span, starts):
    """Count the tokens that overlap a span; one that starts before it is taken to reach it."""
    inside = sum(span.start <= start < span.end for start in starts)
    return inside + (span.start not in starts and any(start < span.start for start in starts))


def whole(text, limit, overlap=0):
    return [text[start:end] for start, end in cut(text, range(len(text)), limit, overlap)]


@given(tokenised(), st.integers(1, 12), st.integers(0, 11))
def test_chunks_hold_everything_ascend_and_keep_to_their_limits(case, limit, overlap):
    text, starts = case
    overlap = min(overlap, limit - 1)
    spans = cut(text, starts, limit, overlap)
    covered = {place for span in spans for place in range(*span)}
    assert all(place in covered for place, character in enumerate(text) if not character.isspace())
    assert spans == cut(text, np.array(starts, np.int64), limit, overlap)
    assert len(spans) == 1 or all(text[a:b] == text[a:b].strip() != "" for a, b in spans)
    for span in spans:
        assert tokens_of(span, starts) <= limit or span.end - span.start == 1 or len(starts) <= limit
    for before, after in itertools.pairwise(spans):
        assert before.start < after.start
        assert before.end < after.end
        shared = Span(after.start, before.end)
        assert shared.end <= shared.start or tokens_of(shared, starts) <= overlap


CHARACTERS = [
    "头",
    "。",
    "，",
    " ",
    "a",
    "e\u0301",
    "👨\u200d👩",
    "👍🏽",
    "🇨🇳",
    "葛\U000e0100",
    "\ud83d\ude00",
]


@given(st.lists(st.sampled_from(CHARACTERS), max_size=60), st.integers(3, 8), st.integers(0, 2))
def test_characters_stay_with_what_belongs_to_them(characters, limit, overlap):
    text = "".join(characters)
    between = {0, *itertools.accumulate(map(len, characters))}
    for span in cut(text, range(len(text)), limit, overlap):
        assert {*span} <= between


def test_a_text_that_fits_is_one_chunk_as_it_is():
    assert cut(" 头痛。\n", range(5), 5) == [Span(0, 5)]
    assert cut("", [], 1) == [Span(0, 0)]
    assert cut(" \n ", range(3), 2) == [Span(0, 0)]


def test_chunks_are_whole_sentences_where_these_fit():
    assert whole("头痛三天。发烧。咳嗽，流涕。好。", 9) == ["头痛三天。发烧。", "咳嗽，流涕。好。"]
    # a sentence that is too long is cut anyway: what is before it keeps its first clauses
    assert whole("好。头痛三天，发烧，咳嗽。谢谢。", 9) == ["好。头痛三天，", "发烧，咳嗽。谢谢。"]


def test_the_overlap_is_whole_sentences_then_clauses():
    text = "头痛三天。发烧。咳嗽。流涕，乏力。"
    assert whole(text, 11, 6) == ["头痛三天。发烧。咳嗽。", "咳嗽。流涕，乏力。"]
    assert whole(text, 12, 6) == ["头痛三天。发烧。咳嗽。", "发烧。咳嗽。流涕，乏力。"]
    assert whole("头痛三天，发烧。咳嗽流涕，乏力。", 12, 4) == ["头痛三天，发烧。", "发烧。咳嗽流涕，乏力。"]
    # the last clause does not fit, and the cut is at a sentence end: nothing is repeated
    assert whole("头痛三天发烧。咳嗽流涕乏力。", 12, 4) == ["头痛三天发烧。", "咳嗽流涕乏力。"]
    # only after a cut inside a clause, parts of it
    assert whole("头痛三天发烧咳嗽流涕", 6, 2) == ["头痛三天发烧", "发烧咳嗽流涕"]


def test_a_hundred_thousand_characters_are_cut_in_a_number_of_steps_that_grows_with_them(monkeypatch):
    from care_accel.collection.cutting import breaks

    steps = 0
    solid = breaks.Breaks._solid

    def counted(self, place):
        nonlocal steps
        steps += 1
        return solid(self, place)

    monkeypatch.setattr(breaks.Breaks, "_solid", counted)
    for text in ("头痛，", "头。", "\n头", "🇨"):
        long = text * (20_000 // len(text))
        steps = 0
        assert len(cut(long, range(len(long)), 128, 32)) < 500
        assert steps < 8 * len(long)


@pytest.mark.parametrize(("limit", "overlap"), [(0, 0), (-1, 0), (1.5, 0), (4, 4), (4, -1), (4, True)])
def test_numbers_that_make_no_chunks_are_refused(limit, overlap):
    with pytest.raises(CareError, match="chunk_"):
        cut("头痛", [0, 1], limit, overlap)


TEXT = "患者，男，45岁。头痛3.5天\ud83d，血压160/100 mmHg！Take aspirin. 👨‍👩‍👧囧" * 8


@pytest.fixture
def bytes_tokenizer():
    """Return a tokenizer whose tokens are bytes, as that of a byte-level vocabulary without merges."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return SimpleNamespace(backend_tokenizer=backend)


def test_tokens_are_found_whatever_the_truncation_of_the_tokenizer(embedded_model):
    tokenizer = embedded_model.encoder("document").tokenizer
    plain = token_starts(tokenizer, [TEXT, "", "头痛"])
    tokenizer(["头痛"], truncation=True, max_length=8, return_attention_mask=False, verbose=False)
    cut_off = token_starts(tokenizer, [TEXT, "", "头痛"])
    assert [starts.tolist() for starts in plain] == [starts.tolist() for starts in cut_off]
    assert (plain[0][0], plain[1].size) == (0, 0)
    assert (np.diff(plain[0]) >= 0).all()
    assert plain[0][-1] == len(TEXT) - 1


def test_bytes_of_a_character_start_where_it_does(bytes_tokenizer):
    assert token_starts(bytes_tokenizer, ["a囧\ud83d"])[0].tolist() == [0, 1, 1, 1, 2, 2, 2]


def test_chunks_that_are_tokenised_alone_keep_to_their_limit(embedded_model, bytes_tokenizer):
    for tokenizer in (embedded_model.encoder("document").tokenizer, bytes_tokenizer):
        for limit, overlap in ((6, 2), (12, 5), (40, 0)):
            spans, short = cut_texts(tokenizer, [TEXT, "头痛"], limit, overlap)
            chunks = [TEXT[start:end] for start, end in spans]
            assert max(map(len, token_starts(tokenizer, chunks))) <= limit
            assert short == [Span(0, 2)]
            assert (spans[0].start, spans[-1].end) == (0, len(TEXT))


def test_a_character_with_more_tokens_than_a_chunk_is_one_of_its_own(bytes_tokenizer):
    assert cut_texts(bytes_tokenizer, ["囧a囧"], 2) == [[Span(0, 1), Span(1, 2), Span(2, 3)]]


def test_a_tokenizer_without_positions_is_refused():
    with pytest.raises(CareError, match="object does not say where tokens are"):
        token_starts(object(), ["头痛"])
