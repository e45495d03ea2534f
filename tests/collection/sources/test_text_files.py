import csv
import io
import json
from types import SimpleNamespace
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from care_accel import CareError
from care_accel.collection.sources import read_documents, streams


def located(file, **options):
    prefix = f"{file}, line "
    return [
        (row, int(place.removeprefix(prefix))) for row, place in read_documents(file, **options).located()
    ]


def test_quoted_lines_and_quotes_keep_true_line_numbers(tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes('id,text\r\n\r\n1,"头痛,\r\n\r\n发烧 ""高"""\r\n \r\n2,咳嗽\r\n'.encode())
    assert located(file) == [
        ({"id": "1", "title": "", "text": '头痛,\r\n\r\n发烧 "高"'}, 3),
        ({"id": "2", "title": "", "text": "咳嗽"}, 7),
    ]


def test_a_header_may_be_quoted_and_say_commas_or_tabs(tmp_path):
    file = tmp_path / "a"
    file.write_text('"id"\t"text"\t"a,b,c"\n1\t头,痛\tx\n')
    assert located(file, fields="*") == [({"id": "1", "title": "", "text": "头,痛", "a,b,c": "x"}, 2)]


def test_a_long_document_fits_in_a_cell(tmp_path):
    (tmp_path / "a").write_text("id,text\n1," + "x" * 200_000 + "\n")
    ((row, _),) = located(tmp_path / "a")
    assert len(row["text"]) == 200_000


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"id,text\n1,a\n2\n", "line 3: has 1 columns, the header 2"),
        (b'id,text\n1,a\n2,"b"c\n', "line 3: not CSV: .*; quotes inside quotes are written twice"),
        (b'id,text\n1,a\n2,"b\n\n', "line 3: not CSV: unexpected end of data"),
        (b"id,text\n1,a\n2,\xff\n", "line 3: is not UTF-8; convert"),
        ("id,text\n1,a\n2,高血压\n".encode("gb18030"), "line 3: is not UTF-8, but may be GB18030: try --encoding gb18030"),
        ('{"id": 1, "text": "a"}\n\n{"id": 1, "text": "高血压"}\n'.encode("gb18030"), "line 3: .* try --encoding gb18030"),
        (b'{"id": 1, "text": "a"}\n\n{"id": 1, "id\n', "line 3: not JSON: Unterminated string starting at character 11"),
        (b'{"id": 1, "text": "a"}\n\n' + b'{"a":' * 100_000, "line 3: not JSON: "),
        (b'{"id": 1, "text": "a"}\n\n{"id": ' + b"1" * 5000 + b"}", "line 3: not JSON: "),
    ],
)  # fmt: skip
def test_a_mistake_is_named_by_its_line_and_comes_after_the_rows_before(tmp_path, content, words):
    (tmp_path / "a").write_bytes(content)
    reader = read_documents(tmp_path / "a")
    assert next(reader)["id"] == "1"
    with pytest.raises(CareError, match=words) as error:
        next(reader)
    assert "\n" not in str(error.value)


def test_rows_after_a_bad_one_are_read(tmp_path):
    (tmp_path / "a").write_bytes(b'id,text\n1,a\n2,\xff\n3\n4,"b"c\n5,e\n')
    with read_documents(tmp_path / "a", skip_bad=tmp_path / "bad") as reader:
        assert [row["id"] for row in reader] == ["1", "5"]
    places = [json.loads(line)["place"] for line in (tmp_path / "bad").read_text().splitlines()]
    assert [place.rpartition(" ")[2] for place in places] == ["3", "4", "5"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name,text\n1,a\n", "line 1: '_id' or 'id' is missing; there are: name, text"),
        ("\nid;text\n1;a\n", "line 2: .* there are: id;text"),
        ('id,"text\n', "line 1: not CSV|line 1: unexpected end of data"),
        ("id,text,text\n", "line 1: there are two columns 'text'"),
    ],
)
def test_a_header_is_checked(tmp_path, content, words):
    (tmp_path / "a").write_text(content)
    with pytest.raises(CareError, match=words):
        list(read_documents(tmp_path / "a"))


def test_a_name_that_no_row_has_is_a_mistake_and_one_that_some_have_is_not(tmp_path):
    rows = [json.dumps({"id": i, "text": "a"} | ({"year": 2010} if i == 50 else {})) for i in range(120)]
    (tmp_path / "a").write_text("\n".join(rows))
    assert sum(row["year"] is not None for row, _ in located(tmp_path / "a", fields=["year"])) == 1
    for options in ({"fields": ["yaer"]}, {"title": "yaer"}):
        with pytest.raises(
            CareError, match="in its first 100 rows: there is no 'yaer'; there are: id, text, year"
        ):
            located(tmp_path / "a", **options)


def test_a_line_that_is_too_long_is_one_bad_row(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "_LONGEST_LINE", 64)
    (tmp_path / "a").write_text('{"id": 1, "text": "%s"}\n{"id": 2, "text": "b"}\n' % ("a" * 200))
    with read_documents(tmp_path / "a", skip_bad=tmp_path / "bad") as reader:
        assert [(row["id"], reader.place) for row in reader] == [("2", f"{tmp_path / 'a'}, line 2")]
    assert "the line is longer than" in (tmp_path / "bad").read_text()


def test_the_mark_of_utf8_and_another_encoding_contradict_each_other(tmp_path):
    (tmp_path / "a").write_text('\ufeff{"id": 1, "text": "a"}\n')
    with pytest.raises(CareError, match="begins with the mark of UTF-8; leave out the encoding"):
        list(read_documents(tmp_path / "a", encoding="gb18030"))


TEXTS = st.lists(st.text(st.sampled_from('头痛,\t"\n\r a\u2028\x1c'), max_size=12), min_size=1, max_size=6)


def from_stdin(text):
    with mock.patch("sys.stdin", SimpleNamespace(buffer=io.BytesIO(text.encode()))):
        return list(read_documents("-").located())


@given(TEXTS, st.sampled_from(",\t"))
def test_tables_come_back_as_they_were_written_each_row_at_its_line(texts, delimiter):
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerow(["id", "text"])
    lines = []
    for i, text in enumerate(texts):
        lines.append(out.getvalue().count("\n") + 1)
        writer.writerow([i, text])
    found = from_stdin(out.getvalue())
    assert [row["text"] for row, _ in found] == texts
    assert [place for _, place in found] == [f"standard input, line {line}" for line in lines]


@given(TEXTS)
def test_json_lines_come_back_as_they_were_written(texts):
    lines = [json.dumps({"id": i, "text": text}, ensure_ascii=False) for i, text in enumerate(texts)]
    found = from_stdin("\n\r\n".join(lines))
    assert [row["text"] for row, _ in found] == texts
    assert [place for _, place in found] == [f"standard input, line {2 * i + 1}" for i in range(len(texts))]
