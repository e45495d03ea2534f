import gzip

import pytest

from care_accel import CareError
from care_accel.export import DevSet
from care_accel.export.texts import read_texts


def test_a_corpus_is_json_lines_or_a_text_a_line_packed_or_not(tmp_path):
    rows = '{"_id": "1", "title": "高血压", "text": "低盐"}\n{"text": "头痛"}\n'
    (tmp_path / "a.jsonl").write_text(rows)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    (tmp_path / "b.txt").write_text("高血压 低盐\n\n头痛")
    for name in ("a.jsonl", "a.jsonl.gz", "b.txt"):
        assert read_texts(tmp_path / name) == ["高血压 低盐", "头痛"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", "\n", "has no texts"),
        ("a.jsonl", '{"words": 1}', "line 1: 'text' is missing"),
        ("b.jsonl", "[1]", "line 1: expected a JSON object"),
    ],
)
def test_a_broken_corpus_is_one_line(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(CareError, match=words):
        read_texts(tmp_path / name)


def test_a_set_is_found_by_its_name_and_split(data_dir):
    assert DevSet.read(data_dir, "retrieval/own", "test").name == "retrieval/own, test"
    with pytest.raises(
        CareError, match="no data set 'retrieval/other'; available retrieval sets: retrieval/own"
    ):
        DevSet.read(data_dir, "retrieval/other", None)
    with pytest.raises(CareError, match="available splits: test"):
        DevSet.read(data_dir, None, "train")
