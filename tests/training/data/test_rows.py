import gzip
import random

from hypothesis import given
from hypothesis import strategies as st

from care_accel.training.data.rows import read_texts, split_clauses, split_text


@given(st.text("甲乙丙丁，。？", max_size=60), st.integers(0, 99))
def test_a_part_of_a_text_asks_for_the_text(text, seed):
    found = split_text(text, random.Random(seed))
    if found is None:
        return
    query, document = found
    assert len(query) >= 6
    assert query in text
    assert document == text or len(document) <= len(text) - len(query)


def test_mostly_a_sentence_is_taken_out_of_its_document():
    text = "高血压应该怎么治疗？需要低盐饮食，规律服药。"
    kept = sum(split_text(text, random.Random(seed))[1] == text for seed in range(400))
    assert 60 < kept < 140


def test_a_packed_file_is_read_as_a_plain_one(data_dir):
    plain = (data_dir / "texts.jsonl").read_bytes()
    (data_dir / "packed.jsonl.gz").write_bytes(gzip.compress(plain))
    assert list(read_texts(data_dir / "packed.jsonl.gz")) == list(read_texts(data_dir / "texts.jsonl"))


def test_only_the_texts_of_some_fields_may_be_read(data_dir):
    file = data_dir / "triplets.jsonl"
    queries = list(read_texts(file, ["query"]))
    assert queries[0] == "高血压怎么治"
    assert len(queries) == len(list(read_texts(file))) // 3
    assert sorted(read_texts(file, ["neg", "missing"])) == sorted(read_texts(file, ["pos"]))


@given(st.text("甲乙丙丁，。？：、 \n", max_size=60))
def test_a_clause_is_a_part_of_its_text_without_punctuation_that_is_long_enough(text):
    for clause in split_clauses(text):
        assert clause in text
        assert len(clause) >= 6
        assert not set(clause) & set("，。？：、\n")


def test_a_text_is_split_into_clauses_at_all_punctuation():
    assert split_clauses("您好，月经结束后突然痛：是什么原因呢？不用担心，多喝水。") == [
        "月经结束后突然痛",
        "是什么原因呢",
    ]
