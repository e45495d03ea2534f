"""The tokenizer's model: what it saves comes back, needs no torch, and gathers requests into few shapes."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from care_accel.encoding.loading.vocabulary import Vocabulary
from care_accel.errors import CareError
from care_accel.serving.tokenizer_model import (
    length_for,
    load_tokenizing,
    save_tokenizing,
    shared_lengths,
    tokenizing,
)

TEXTS = ["高血压怎么治", "", "头痛 fever", "糖尿病" * 300]


@pytest.mark.parametrize("role", ["query", "document"])
@pytest.mark.parametrize("task", ["retrieval", "sts"])
def test_a_saved_tokenizer_makes_the_tokens_of_its_encoder(tiny_model, tmp_path, role, task):
    encoder = tiny_model.encoder(role)
    save_tokenizing(encoder, tmp_path / "t")
    back = load_tokenizing(tmp_path / "t", encoder.spec)
    rows = encoder.tokenize(TEXTS, task)
    assert back.tokenize(TEXTS, task) == rows
    for ours, theirs in zip(encoder.pad(rows, 600), back.pad(rows, 600), strict=True):
        assert np.array_equal(ours, theirs)


def test_a_prompt_left_out_of_pooling_is_in_the_mask(tiny_model, tmp_path):
    spec = replace(tiny_model.spec("query"), include_prompt=False, prompts={"default": "感冒发热{text}"})
    encoder = tokenizing(spec, tiny_model.encoder("query").tokenizer)
    save_tokenizing(encoder, tmp_path / "t")
    back = load_tokenizing(tmp_path / "t", spec)
    _, mask = back.pad(back.tokenize(["头痛"]), 600)
    prompt = len(encoder.tokenizer("感冒发热")["input_ids"])
    assert mask[0, :prompt].tolist() == [2] * prompt
    assert 0 < (mask[0, prompt:] == 1).sum() < 5


def test_a_kept_vocabulary_is_kept(tiny_model, tmp_path):
    whole = tiny_model.encoder("query")
    tokenizer = whole.tokenizer
    kept = sorted({*whole.tokenize(["高血压怎么治"])[0], *tokenizer.all_special_ids, tokenizer.pad_token_id})
    unknown = tokenizer.unk_token_id or tokenizer.pad_token_id
    short = tokenizing(whole.spec, tokenizer, Vocabulary.from_token_ids(kept, len(tokenizer), unknown))
    save_tokenizing(short, tmp_path / "t")
    back = load_tokenizing(tmp_path / "t", whole.spec)
    assert back.tokenize(TEXTS) == short.tokenize(TEXTS) != whole.tokenize(TEXTS)
    assert max(max(row) for row in back.tokenize(TEXTS)) < len(kept)


def test_a_tokenizer_that_comes_back_as_another_is_refused(tiny_model, tmp_path, monkeypatch):
    encoder = tiny_model.encoder("query")
    other = tiny_model.encoder("document")
    monkeypatch.setattr(encoder.tokenizer, "save_pretrained", other.tokenizer.save_pretrained)
    monkeypatch.setattr(
        type(encoder.tokenizer), "pad_token_id", property(lambda self: id(self)), raising=False
    )
    with pytest.raises(CareError, match="serve it without --engine"):
        save_tokenizing(encoder, tmp_path / "t")


def test_it_tokenises_where_there_is_neither_torch_nor_transformers(tiny_model, tmp_path):
    encoder = tiny_model.encoder("query")
    save_tokenizing(encoder, tmp_path / "t")
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from care_accel.encoding import EncoderSpec\n"
        "from care_accel.serving.tokenizer_model import load_tokenizing\n"
        "from pathlib import Path\n"
        f"spec = EncoderSpec.from_dict({encoder.spec.to_dict()!r})\n"
        f"print(load_tokenizing(Path({str(tmp_path / 't')!r}), spec).tokenize(['高血压怎么治']))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == str(encoder.tokenize(["高血压怎么治"]))


def test_an_encoder_without_a_network_says_so(tiny_model):
    encoder = tiny_model.encoder("query")
    with pytest.raises(RuntimeError, match="no network"):
        tokenizing(encoder.spec, encoder.tokenizer).encode("高血压")


def test_the_length_is_the_shortest_that_holds_the_text():
    assert [length_for([8, 12, 16], n) for n in (1, 8, 9, 12, 13, 16)] == [8, 8, 12, 12, 16, 16]


def test_requests_get_one_length_where_none_becomes_much_longer():
    assert shared_lengths([16, 32, 16], 2) == [32, 32, 32]
    assert shared_lengths([16, 512, 16, 256], 2) == [16, 512, 16, 512]
    assert shared_lengths([], 2) == []


@given(st.lists(st.sampled_from([8, 12, 16, 24, 32, 48, 64, 512]), max_size=20), st.sampled_from([1, 2, 4]))
def test_a_shared_length_is_at_least_its_own_and_at_most_so_much_longer(lengths, stretch):
    shared = shared_lengths(lengths, stretch)
    assert len(shared) == len(lengths)
    assert all(own <= length <= stretch * own for own, length in zip(lengths, shared, strict=True))
    assert set(shared) <= set(lengths)
    assert len(set(shared)) <= len(set(lengths))
