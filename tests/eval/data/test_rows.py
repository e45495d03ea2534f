from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from care_accel.errors import CareError
from care_accel.eval.data.rows import Ids, clean, ending, grade_of, number_of, read_rows, text_of, texts_of


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("corpus.jsonl", ".jsonl"),
        ("Corpus.JSONL.GZ", ".jsonl"),
        ("dev.tsv.zst", ".tsv"),
        ("dev-00000-of-00001.parquet", ".parquet"),
        ("README", ""),
    ],
)
def test_the_format_is_told_by_the_ending_before_the_packing(name, found):
    assert ending(Path(name)) == found


def test_rows_packed_with_zstd_have_their_lines(tmp_path):
    file = tmp_path / "a.jsonl.zst"
    with pa.CompressedOutputStream(str(file), "zstd") as stream:
        stream.write('{"text": "好"}\n\n{"text": "坏"}\n'.encode())
    assert list(read_rows(file)) == [(f"{file}, line 1", {"text": "好"}), (f"{file}, line 3", {"text": "坏"})]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a"])
def test_a_format_that_is_not_read_says_which_are(tmp_path, name):
    (tmp_path / name).write_text("x")
    with pytest.raises(CareError, match=r"is not read here; write it as JSON lines \(.jsonl\) or Parquet"):
        list(read_rows(tmp_path / name))


@given(st.integers(-(10**30), 10**30))
@settings(deadline=None)
def test_a_whole_number_is_a_grade_however_it_is_written(number):
    assert grade_of(number, "") == number
    for text in (str(number), f" {number}.0 ", f"{number}.", f"{number}.000"):
        assert grade_of(text, "") == number
    if abs(number) < 2**53:
        assert grade_of(float(number), "") == number


@pytest.mark.parametrize(
    "value", ["0.5", 0.5, "", "1e1", "x", "１", None, True, [1], float("nan"), float("inf")]
)
def test_what_is_no_whole_number_is_no_grade(value):
    with pytest.raises(CareError, match=r"here: score .* is not an integer"):
        grade_of(value, "here")


@given(st.lists(st.one_of(st.integers(0, 9), st.text("0123456789", min_size=1, max_size=1))))
@settings(deadline=None)
def test_ids_are_text_and_of_one_kind(values):
    ids = Ids()
    rows = [({"_id": value}, f"f, line {number}") for number, value in enumerate(values, start=1)]
    if len({type(value) for value in values}) == 2:
        with pytest.raises(CareError, match="at line 1; write all ids of the file alike"):
            [ids.read(row, ("id", "_id"), place) for row, place in rows]
    else:
        assert [ids.read(row, ("id", "_id"), place) for row, place in rows] == [str(v) for v in values]


def test_values_have_their_types():
    row = {"text": "好", "list": ["好"], "number": 3}
    assert (text_of(row, "text", ""), texts_of(row, "list", ""), number_of(row, "number", "")) == (
        "好",
        ["好"],
        3,
    )
    for read, name, words in (
        (text_of, "number", "here: 'number' is a int; it must be a string"),
        (text_of, "none", "here: 'none' is missing"),
        (texts_of, "text", "here: 'text' must be a list of strings"),
        (number_of, "text", "here: 'text' must be a finite number"),
    ):
        with pytest.raises(CareError, match=words):
            read(row, name, "here")


def test_lone_surrogates_are_replaced_and_named_by_their_place(caplog):
    assert clean("头\ud83d痛", "a.jsonl, line 7") == "头\ufffd痛"
    assert "a.jsonl, line 7: 1 lone surrogates were replaced" in caplog.text
