import dataclasses
import logging
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from care_accel import CareError, DualEncoder
from care_accel.encoding import Encoder, EncoderSpec
from care_accel.encoding.loading.checkpoint import Checkpoint
from care_accel.encoding.runtimes.pytorch import PyTorchRuntime

TEXTS = [
    "头痛",
    "高血压患者应低盐饮食，遵医嘱服用降压药",
    "",
    "Ａ型😀血\u200b压é",
    "咳嗽三天" * 9,
    "血糖高吃什么？",
]


def encoder_of(folder, **fields):
    values = {"pooling": "mean", "order": "normalize-then-slice", "width": 20} | fields
    spec = EncoderSpec(**values)
    checkpoint = Checkpoint(folder)
    return Encoder(
        spec, checkpoint.load_tokenizer(), PyTorchRuntime(checkpoint.load_network("float32"), spec)
    )


def reference(encoder, text):
    """One text alone, without padding: forward, pool, normalise at full width, slice, in float64 at the end."""
    spec, tokenizer, network = encoder.spec, encoder.tokenizer, encoder.runtime.network
    ids = tokenizer(text)["input_ids"][: spec.max_tokens] or [tokenizer.pad_token_id]
    with torch.no_grad():
        hidden = network(input_ids=torch.tensor([ids])).last_hidden_state[0].double().numpy()
    pooled = {"first": hidden[0], "last": hidden[-1], "mean": hidden.mean(axis=0)}[spec.pooling]
    if spec.order == "slice-then-normalize":
        pooled = pooled[: spec.width]
    # qwen3 gives its pad token, all that an empty text has, a vector of zeros: it stays one.
    return (pooled / (np.linalg.norm(pooled) or 1.0))[: spec.width]


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("order", ["normalize-then-slice", "slice-then-normalize"])
@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
@pytest.mark.parametrize("role", ["query_encoder", "document_encoder"])
def test_vectors_equal_a_plain_reference_alone_and_in_any_batch(
    tiny_folders, role, pooling, order, padding_side
):
    encoder = encoder_of(tiny_folders / role, pooling=pooling, order=order, padding_side=padding_side)
    expected = np.stack([reference(encoder, text) for text in TEXTS])
    together = encoder.encode(TEXTS)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, expected, atol=1e-5)
    np.testing.assert_allclose(encoder.encode(TEXTS, batch_size=2, token_budget=40), expected, atol=1e-5)
    np.testing.assert_allclose(np.stack([encoder.encode(text) for text in TEXTS]), expected, atol=1e-5)


def test_the_order_of_the_texts_is_kept_over_windows(tiny_folders, monkeypatch):
    monkeypatch.setattr("care_accel.encoding.encoder._WINDOW", 4)
    encoder = encoder_of(tiny_folders / "query_encoder")
    found = encoder.encode(TEXTS * 2, batch_size=3)
    np.testing.assert_allclose(found[: len(TEXTS)], found[len(TEXTS) :], atol=1e-5)
    np.testing.assert_allclose(found[4], encoder.encode(TEXTS[4]), atol=1e-5)


def test_the_next_window_is_tokenised_while_one_is_encoded(tiny_folders, monkeypatch):
    monkeypatch.setattr("care_accel.encoding.encoder._WINDOW", 2)
    encoder = encoder_of(tiny_folders / "query_encoder")
    calls, both = [], threading.Event()
    tokenize, run = encoder.tokenize, encoder.runtime

    def tokenize_and_say(texts, task):
        calls.append(texts)
        if len(calls) == 2:
            both.set()
        return tokenize(texts, task)

    def run_when_both_are_begun(ids, mask):
        assert both.wait(timeout=20)
        return run(ids, mask)

    encoder.tokenize, encoder.runtime = tokenize_and_say, run_when_both_are_begun
    found = encoder.encode(TEXTS[:4])
    encoder.tokenize, encoder.runtime = tokenize, run
    np.testing.assert_allclose(found, encoder.encode(TEXTS[:4]), atol=1e-5)


def test_a_str_gives_one_vector_and_a_list_a_row_each(tiny_folders):
    encoder = encoder_of(tiny_folders / "query_encoder")
    assert encoder.encode("头痛").shape == (20,)
    assert encoder.encode(["头痛"]).shape == (1, 20)
    assert encoder.encode([]).shape == (0, 20)


def test_the_prompt_of_the_task_is_put_in(tiny_folders):
    encoder = encoder_of(tiny_folders / "query_encoder", prompts={"sts": "感冒{text}"})
    np.testing.assert_allclose(encoder.encode("头痛", task="sts"), encoder.encode("感冒头痛"), atol=1e-6)
    with pytest.raises(CareError, match="unknown prompt task"):
        encoder.encode("头痛", task="dance")


def test_a_text_without_tokens_is_the_pad_token_and_is_counted(tiny_folders):
    encoder = encoder_of(tiny_folders / "document_encoder")
    found = encoder.encode(["", " "])
    assert np.isfinite(found).all()
    assert encoder.counts.without_tokens == 2
    np.testing.assert_allclose(found[0], reference(encoder, ""), atol=1e-5)


def test_long_texts_are_cut_counted_and_reported_once(tiny_folders, caplog):
    encoder = encoder_of(tiny_folders / "query_encoder", max_tokens=5)
    with caplog.at_level(logging.WARNING):
        cut = encoder.encode(["头痛", "咳嗽三天" * 40, "感冒发热" * 40])
        encoder.encode("咳嗽三天" * 40)
    assert encoder.counts.truncated == 3
    assert sum("were truncated" in record.message for record in caplog.records) == 1
    np.testing.assert_allclose(cut[1], reference(encoder, "咳嗽三天" * 40), atol=1e-5)


def test_a_text_of_just_the_limit_is_not_counted_as_cut(tiny_folders):
    encoder = encoder_of(tiny_folders / "query_encoder")
    length = len(encoder.tokenize(["咳嗽三天血糖"])[0])
    exact = Encoder(dataclasses.replace(encoder.spec, max_tokens=length), encoder.tokenizer, encoder.runtime)
    exact.encode("咳嗽三天血糖")
    assert exact.counts.truncated == 0


def test_lone_surrogates_become_replacement_characters_and_are_counted(tiny_folders):
    encoder = encoder_of(tiny_folders / "query_encoder")
    found = encoder.encode(["头\ud83d痛", "\udc00\ud800"])
    assert encoder.counts.replaced_surrogates == 3
    np.testing.assert_allclose(found[0], encoder.encode("头\ufffd痛"), atol=1e-6)


@pytest.mark.parametrize(
    ("texts", "options", "words"),
    [
        (["a", 3], {}, "text 1 is a int"),
        ([None], {}, "text 0 is a NoneType"),
        (["a"], {"batch_size": 0}, "batch_size is 0"),
        (["a"], {"token_budget": 0}, "token_budget is 0"),
    ],
)
def test_what_is_no_text_or_no_size_is_refused(tiny_folders, texts, options, words):
    with pytest.raises(CareError, match=words):
        encoder_of(tiny_folders / "query_encoder").encode(texts, **options)


@pytest.mark.parametrize("texts", [5, None, b"bytes", {"a": 1}])
def test_what_is_no_list_of_texts_is_refused(tiny_model, texts):
    with pytest.raises(CareError, match="give a str or a list of str"):
        tiny_model.encode_query(texts)


def test_a_vector_that_is_not_finite_is_said(tiny_model):
    import torch

    network = tiny_model.encoder("query").runtime.network
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(CareError, match="the vector of text 0 is not finite"):
        tiny_model.encode_query(["头痛"])


def test_tokenising_and_encoding_the_tokens_are_the_two_halves_of_encode(tiny_folders):
    encoder = encoder_of(tiny_folders / "query_encoder")
    rows = encoder.tokenize(TEXTS)
    np.testing.assert_allclose(encoder.encode_tokens(rows, batch_size=2), encoder.encode(TEXTS), atol=1e-6)
    assert encoder.encode_tokens([]).shape == (0, 20)
    with pytest.raises(CareError, match="batch_size is 0"):
        encoder.encode_tokens(rows, batch_size=0)


class Packed:
    """A runtime that takes rows: a vector is the text's number of tokens, and their sum."""

    device = "cpu"

    def __init__(self):
        self.calls = []

    def packs(self, rows):
        return True

    def encode_rows(self, rows):
        self.calls.append([list(row) for row in rows])
        return np.array([[len(row), sum(row)] for row in rows], np.float32)


@pytest.fixture(scope="module")
def made(tiny_folders):
    return encoder_of(tiny_folders / "query_encoder")


@given(rows=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=9), max_size=9), size=st.integers(1, 9))
def test_a_runtime_that_needs_no_padding_gets_rows_within_the_budgets(made, rows, size):
    encoder = Encoder(dataclasses.replace(made.spec, width=2), made.tokenizer, runtime := Packed())
    found = encoder.encode_tokens(rows, batch_size=size, token_budget=20)
    assert found.tolist() == [[len(row), sum(row)] for row in rows]
    assert encoder.counts.tokens == encoder.counts.padded_tokens == sum(map(len, rows))
    assert all(len(call) <= size and sum(map(len, call)) <= 20 for call in runtime.calls)
    if len(rows) <= size and 0 < sum(map(len, rows)) <= 20:
        assert runtime.calls == [rows]


def test_texts_of_several_lengths_are_encoded_without_padding(tiny_folders):
    encoder = encoder_of(tiny_folders / "query_encoder")
    rows = encoder.tokenize(["短", "一个长得多的句子", "句子"] * 5)
    found = encoder.encode_tokens(rows, batch_size=6)
    assert encoder.counts.padded_tokens == encoder.counts.tokens == sum(map(len, rows))
    for row, vector in zip(rows, found, strict=True):
        np.testing.assert_allclose(encoder.encode_tokens([row])[0], vector, atol=2e-6)


@pytest.mark.parametrize("role", ["query", "document"])
def test_vectors_that_stay_on_the_device_are_the_same(tiny_model, role):
    encoder = tiny_model.encoder(role)
    rows = encoder.tokenize([*TEXTS, "", "短"] * 3)
    there = encoder.encode_tokens_on_device(rows, batch_size=4)
    assert there.device.type == encoder.runtime.device
    np.testing.assert_array_equal(there.numpy(), encoder.encode_tokens(rows, batch_size=4))
    assert encoder.encode_tokens_on_device([]).shape == (0, 24)


def test_vectors_stay_on_the_device_with_pytorch_alone():
    encoder = DualEncoder.from_pretrained("care-mini").encoder("query")
    with pytest.raises(CareError, match="needs runtime='pytorch'"):
        encoder.encode_tokens_on_device([[1]])
