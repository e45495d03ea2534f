import dataclasses

import pytest

from care_accel import CareError, EncoderSpec
from care_accel.training.data.tables import load_table
from care_accel.training.recipe import DataFile

SPEC = EncoderSpec("mean", "normalize-then-slice", 8)


def table(data_dir, file, kind="triplets", negatives=1, **fields):
    return load_table(DataFile(file, kind, **fields), data_dir, SPEC, SPEC, negatives, seed=0)


def test_a_triplet_gives_a_row_for_each_positive_and_query_field(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"query": "短", "long_query": "长", "pos": ["甲", "乙", "甲"], "neg": ["丙"]}\n'
    )
    found = table(tmp_path, "a.jsonl", query_fields=["query", "long_query"])
    assert sorted(zip(found["query"], found["positive"], strict=True)) == [
        ("短", "乙"),
        ("短", "甲"),
        ("长", "乙"),
        ("长", "甲"),
    ]
    assert set(found["negative_1"]) == {"丙"}


def test_pairs_of_the_highest_score_teach_both_directions(data_dir):
    found = table(data_dir, "pairs.jsonl", "pairs")
    assert found.column_names == ["query", "positive"]
    assert len(found) == 16
    assert "头痛" not in found["query"]
    both = set(zip(found["query"], found["positive"], strict=True))
    assert {(d, q) for q, d in both} == both


def test_graded_pairs_keep_every_row_and_its_score(data_dir):
    found = table(data_dir, "pairs.jsonl", "graded")
    assert found.column_names == ["query", "document", "label"]
    assert found["label"][:] == [1.0] * 8 + [0.0]
    assert (found["query"][8], found["document"][8]) == ("头痛", "骨折")


def test_texts_give_a_part_and_its_text(data_dir):
    found = table(data_dir, "texts.jsonl", "texts")
    assert len(found) == 8
    assert found["query"][:] == table(data_dir, "texts.jsonl", "texts")["query"][:]


def test_prompts_are_put_in_as_inference_does(data_dir):
    query = dataclasses.replace(SPEC, prompts={"retrieval": "问：{text}"})
    found = load_table(DataFile("triplets.jsonl"), data_dir, query, SPEC, 1, seed=0)
    assert all(text.startswith("问：") for text in found["query"])
    assert not any(text.startswith("问：") for text in found["positive"])


@pytest.mark.parametrize(
    ("kind", "row", "words"),
    [
        ("triplets", '{"query": "a"}', "line 1: 'pos'"),
        ("triplets", '{"query": 1, "pos": ["a"]}', "line 1: 'query'"),
        ("pairs", '{"sentence1": "a", "sentence2": "b", "score": "1"}', "line 1: 'score'"),
        ("graded", '{"sentence1": "a", "sentence2": "b"}', "line 1: 'score'"),
        ("texts", '{"text": null}', "line 1: 'text'"),
        ("texts", '{"text": "短"}', "no row can be used as texts"),
        ("triplets", "{", "line 1: not JSON"),
    ],
)
def test_a_broken_row_is_named_by_file_and_line(tmp_path, kind, row, words):
    (tmp_path / "a.jsonl").write_text(row + "\n")
    with pytest.raises(CareError, match=words) as error:
        table(tmp_path, "a.jsonl", kind)
    assert "a.jsonl" in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CareError, match=r"nothing\.jsonl: no such file"):
        table(tmp_path, "nothing.jsonl")
