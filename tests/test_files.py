import gzip
import json

import pytest

from care_accel import CareError
from care_accel.files import (
    find_plain_or_gzip,
    read_json,
    read_jsonl,
    read_lines,
    text_field,
    text_list_field,
    write_json,
)
from care_accel.folders import make_folder


def test_lines_are_numbered_as_an_editor_does_blank_ones_left_out(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"\xef\xbb\xbfone\r\n\n  \ntwo")
    assert [(n, line.strip()) for n, line in read_lines(file)] == [(1, "one"), (4, "two")]


def test_gzip_is_read_as_plain(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress('{"a": "好"}\n'.encode()))
    assert list(read_jsonl(tmp_path / "a.gz")) == [(1, {"a": "好"})]
    assert find_plain_or_gzip(tmp_path / "a") == tmp_path / "a.gz"
    assert find_plain_or_gzip(tmp_path / "b") is None


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a", b'{"a": 1}\n{', "line 2: not JSON"),
        ("a", b"[1]\n", "line 1: expected a JSON object, not a list"),
        ("a", '{"a": 1}\n{"a": "好"}'.encode("gb18030"), "line 2: is not UTF-8; convert"),
        ("a.gz", b"not gzip at all", "cannot be read after line 0"),
        ("a.gz", gzip.compress(b'{"a": 1}\n' * 5000)[:-30], "cannot be read after line"),
    ],
)
def test_what_is_broken_is_named_by_file_and_line(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CareError, match=words) as error:
        list(read_jsonl(tmp_path / name))
    assert str(error.value).startswith(str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(CareError, match="cannot be read"):
        list(read_lines(tmp_path / "nothing"))
    with pytest.raises(CareError, match="no such file; an index has one"):
        read_json(tmp_path / "nothing", "an index has one")


@pytest.mark.parametrize("row", [{}, {"a": 1}, {"a": None}])
def test_a_field_that_is_no_text_is_refused(tmp_path, row):
    with pytest.raises(CareError, match="line 7: 'a'"):
        text_field(row, "a", tmp_path, 7)
    with pytest.raises(CareError, match="line 7: 'a' must be a list of strings"):
        text_list_field(row | {"a": ["x", 1]}, "a", tmp_path, 7)


def test_what_cannot_be_written_leaves_the_old_file_whole(tmp_path):
    write_json(tmp_path / "a.json", {"好": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"bad": object()})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"好": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_half_a_surrogate_pair_in_a_field_is_replaced_and_said(tmp_path, caplog):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "\\ud83d头痛", "pos": ["a", "\\ud800\\ud800"]}\n')
    ((line, row),) = read_jsonl(file)
    assert text_field(row, "text", file, line) == "\ufffd头痛"
    assert text_list_field(row, "pos", file, line) == ["a", "\ufffd\ufffd"]
    assert "a.jsonl, line 1: 2 lone surrogates" in caplog.text


def test_a_file_with_and_without_gz_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"{}"))
    with pytest.raises(CareError, match="with and without"):
        find_plain_or_gzip(tmp_path / "a.jsonl")


def test_where_nothing_can_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CareError, match="cannot be written"):
        write_json(tmp_path / "file" / "a.json", {})
    with pytest.raises(CareError, match=r"--output .* cannot be created"):
        make_folder(tmp_path / "file" / "a", "--output")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CareError, match="cannot be written"):
        write_json(tmp_path / "folder", {})
