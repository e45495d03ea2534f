import subprocess
import sys

import numpy as np
import pytest
from transformers import AutoTokenizer

from care_accel import CareError
from care_accel.training import load_recipe
from care_accel.training.networks import initial_model, new_network, train_tokenizer
from care_accel.training.recipe import NewEncoder

TEXTS = ["高血压患者应低盐饮食 120/80", "高血压怎么治ＡＢ", "高血压吃什么"] * 5


def test_the_tokenizer_folds_letters_keeps_digits_apart_and_words_short():
    tokenizer = train_tokenizer(TEXTS, vocab_size=200, alphabet=100)
    assert tokenizer.tokenize("ＡＢ Ab") == tokenizer.tokenize("ab ab")
    assert tokenizer.tokenize("120") == ["1", "2", "0"]
    assert max(len(token) for token in set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)) <= 4
    assert tokenizer.pad_token_id == 0
    assert tokenizer("龘")["input_ids"] == [tokenizer.unk_token_id]
    assert tokenizer("")["input_ids"] == []


def test_the_tokenizer_reloads_the_same(tmp_path):
    tokenizer = train_tokenizer(TEXTS, vocab_size=200, alphabet=100)
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]


def test_a_network_that_cannot_be_built_is_one_line():
    tokenizer = train_tokenizer(TEXTS, vocab_size=200, alphabet=100)
    with pytest.raises(CareError, match="model_type 'tomorrow' is unknown"):
        new_network(NewEncoder({"model_type": "tomorrow"}), tokenizer)
    with pytest.raises(CareError, match="network gte: unknown field 'num_hiden_layers'"):
        new_network(NewEncoder({"model_type": "gte", "num_hiden_layers": 1}), tokenizer)
    with pytest.raises(CareError, match="network clip: cannot be built"):
        new_network(NewEncoder({"model_type": "clip"}), tokenizer)
    with pytest.raises(CareError, match="network gte: cannot be built"):
        new_network(NewEncoder({"model_type": "gte", "hidden_size": "wide"}), tokenizer)


@pytest.mark.parametrize("bag_of_words", [True, False])
def test_a_bag_of_words_begins_with_shared_words_alike(
    values, write_recipe, data_dir, tmp_path, bag_of_words
):
    values["start"]["bag_of_words"] = bag_of_words
    model = initial_model(load_recipe(write_recipe(values)), data_dir, tmp_path / "initial")
    texts = ["高血压怎么治", "糖尿病吃什么", "骨折怎么处理", "近视怎么防"]
    scores = model.encode_query(texts) @ model.encode_document(texts).T
    own = np.diag(scores)
    others = scores[~np.eye(len(texts), dtype=bool)]
    assert (own.min() > others.max()) == bag_of_words


def test_the_same_seed_gives_the_same_networks(values, write_recipe, data_dir, tmp_path):
    recipe = load_recipe(write_recipe(values))
    one, two = (initial_model(recipe, data_dir, tmp_path / name) for name in ("one", "two"))
    assert one.revision("query") == two.revision("query")
    assert one.revision("document") == two.revision("document")


def test_every_process_trains_the_same_tokenizer_ties_among_rare_characters_included():
    code = (
        "from care_accel.training.networks import train_tokenizer\n"
        "texts = [''.join(chr(0x4e00 + i) for i in range(start, start + 60)) for start in (0, 30, 300)]\n"
        "vocabulary = train_tokenizer(texts, vocab_size=100, alphabet=50).get_vocab()\n"
        "print(sorted(vocabulary.items()))\n"
    )
    command = [sys.executable, "-c", code]
    found = {subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(3)}
    assert len(found) == 1


def test_the_most_frequent_characters_are_kept(tmp_path):
    vocabulary = train_tokenizer(["甲乙丙 甲乙 甲", "丁"], vocab_size=50, alphabet=3).get_vocab()
    assert {token for token in vocabulary if len(token) == 1} == {"甲", "乙", "丁"}
