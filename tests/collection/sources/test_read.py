"""Documents of every kind of source, with their places, their mistakes and the progress."""

import gzip
import hashlib
import io
import json
import stat
from types import SimpleNamespace

import pyarrow as pa
import pytest
from pyarrow import parquet

from care_accel import CareError
from care_accel.collection.sources import read_documents

ROWS = [
    {"_id": "a", "title": "高血压", "text": "低盐饮食", "department": "内科", "year": 2010},
    {"_id": "b", "title": "", "text": "多喝水", "department": "儿科", "year": 2020},
]
DOCUMENTS = [{"id": row["_id"], "title": row["title"], "text": row["text"]} for row in ROWS]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CSV = "_id,title,text,department,year\na,高血压,低盐饮食,内科,2010\nb,,多喝水,儿科,2020\n"


def zstd(data):
    return pa.Codec("zstd").compress(data, asbytes=True)


def write_parquet(file, rows=ROWS):
    parquet.write_table(pa.Table.from_pylist(rows), file)


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstd])
@pytest.mark.parametrize(
    "text", [JSONL, CSV, CSV.replace(",", "\t"), "\ufeff" + JSONL, "\ufeff" + CSV, "\n" + JSONL]
)
def test_every_text_format_gives_the_same_documents_whatever_the_name(tmp_path, text, compress):
    (tmp_path / "file").write_bytes(compress(text.encode()))
    assert list(read_documents(tmp_path / "file")) == DOCUMENTS


def test_parquet_gives_the_same_documents(tmp_path):
    write_parquet(tmp_path / "file")
    reader = read_documents(str(tmp_path / "file"))
    assert [(row["id"], place) for row, place in reader.located()] == [
        ("a", f"{tmp_path / 'file'}, row 1"),
        ("b", f"{tmp_path / 'file'}, row 2"),
    ]


@pytest.mark.parametrize("encoding", ["gb18030", "GBK", "gb2312", "big5"])
def test_other_chinese_encodings_are_read_where_asked_for(tmp_path, encoding):
    text = (
        JSONL.replace("高血压", "血糖")
        .replace("低盐饮食", "多喝水")
        .replace("内科", "科")
        .replace("儿科", "科")
    )
    (tmp_path / "file").write_bytes(text.encode(encoding))
    assert [row["title"] for row in read_documents(tmp_path / "file", encoding=encoding)] == ["血糖", ""]


def test_fields_are_taken_where_asked_for_with_their_types(tmp_path):
    (tmp_path / "a.jsonl").write_text(JSONL)
    (tmp_path / "a.csv").write_text(CSV)
    write_parquet(tmp_path / "a.parquet")
    whole = [{"department": row["department"], "year": row["year"]} for row in ROWS]
    for name in ("a.jsonl", "a.parquet"):
        for fields in ("*", ["*"], ["department", "year"], ["department", "year:int"]):
            found = list(read_documents(tmp_path / name, fields=fields))
            assert found == [own | more for own, more in zip(DOCUMENTS, whole, strict=True)]
    assert [row["year"] for row in read_documents(tmp_path / "a.csv", fields="*")] == ["2010", "2020"]
    assert [row["year"] for row in read_documents(tmp_path / "a.csv", fields=["year:int"])] == [2010, 2020]
    assert next(read_documents(tmp_path / "a.csv", fields="department"))["department"] == "内科"


def test_other_names_may_be_given_and_integers_are_ids(tmp_path):
    (tmp_path / "a").write_text('{"key": 7, "body": "b", "head": "h"}\n{"key": "8", "body": "b"}\n')
    found = list(read_documents(tmp_path / "a", id="key", text="body", title="head"))
    assert found == [{"id": "7", "title": "h", "text": "b"}, {"id": "8", "title": "", "text": "b"}]


def test_standard_input_is_a_source_and_stays_open(monkeypatch):
    stdin = SimpleNamespace(buffer=io.BytesIO(gzip.compress(JSONL.encode())))
    monkeypatch.setattr("sys.stdin", stdin)
    reader = read_documents("-")
    assert reader.fraction() is None
    assert list(reader) == DOCUMENTS
    assert reader.place == "standard input, line 2"
    assert not stdin.buffer.closed


def test_a_row_that_is_no_document_stops_after_those_before_it(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(JSONL + "\n" + '{"id": "c", "text": 3}\n')
    reader = read_documents(file, fields=["year"])
    assert [next(reader)["id"], next(reader)["id"]] == ["a", "b"]
    with pytest.raises(CareError) as error:
        next(reader)
    assert str(error.value) == f"{file}, line 4: 'text' is a number; it must be a string"


@pytest.mark.parametrize("compress", [gzip.compress, zstd])
def test_a_file_that_breaks_off_gives_what_is_before(tmp_path, compress):
    texts = hashlib.shake_128(b"any").hexdigest(300_000)  # more than a block of zstd
    rows = "".join(json.dumps({"id": i, "text": texts[i * 100 : (i + 1) * 100]}) + "\n" for i in range(6000))
    (tmp_path / "a").write_bytes(compress(rows.encode())[:-40])
    reader = read_documents(tmp_path / "a")
    read = []
    with pytest.raises(CareError, match=r"a: cannot be read after line \d+: "):
        read.extend(reader)
    assert len(read) > 1000


def test_bad_rows_are_left_out_and_written_down_where_asked_for(tmp_path):
    bad = ["{", "[1]", '{"text": "a"}', '{"id": "x", "text": null}', '{"id": "x", "text": "a", "year": {}}']
    (tmp_path / "a").write_bytes("\n".join([*bad, JSONL]).encode() + '{"id": "é"}\n'.encode("latin-1"))
    (tmp_path / "bad.jsonl").touch(mode=0o644)
    with read_documents(tmp_path / "a", skip_bad=tmp_path / "bad.jsonl", fields=["year"]) as reader:
        assert [row["id"] for row in reader] == ["a", "b"]
    assert reader.skipped == 6
    written = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    lines = [int(row["place"].removeprefix(f"{tmp_path / 'a'}, line ")) for row in written]
    assert lines == [1, 2, 3, 4, 5, 8]
    assert [row["reason"].split(";")[0] for row in written] == [
        "not JSON: Expecting property name enclosed in double quotes at character 2",
        "expected a JSON object, not a list",
        "'_id' or 'id' is missing",
        "'text' is null",
        "the field 'year' is an object",
        "is not UTF-8",
    ]
    assert stat.S_IMODE((tmp_path / "bad.jsonl").stat().st_mode) == 0o600
    with pytest.raises(CareError, match="cannot be written"):
        read_documents(tmp_path / "a", skip_bad=tmp_path / "none" / "bad.jsonl")


def test_the_fraction_grows_to_one(tmp_path):
    rows = [{"id": i, "text": "头痛" * 300} for i in range(2000)]
    (tmp_path / "a").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_parquet(tmp_path / "b", rows)
    reader = read_documents([tmp_path / "a", tmp_path / "b"])
    seen = [reader.fraction()]
    seen += [reader.fraction() for _ in reader]
    assert seen == sorted(seen)
    assert len(set(seen)) > 1000
    assert (seen[0], reader.fraction()) == (0, 1)


def test_half_a_surrogate_pair_is_replaced_and_said_once(tmp_path, caplog):
    (tmp_path / "a").write_text('{"id": "a\\ud800", "text": "\\ud83d头痛", "tags": ["\\udc00"]}\n' * 2)
    for row in read_documents(tmp_path / "a", fields=["tags"]):
        assert row == {"id": "a\ufffd", "title": "", "text": "\ufffd头痛", "tags": ["\ufffd"]}
    assert caplog.text.count("lone surrogates") == 1
    assert "a, line 1" in caplog.text


def test_closing_early_ends_the_reader_and_closes_the_file(tmp_path):
    (tmp_path / "a").write_text(JSONL)
    reader = read_documents(tmp_path / "a", skip_bad=tmp_path / "bad")
    next(reader)
    reader.close()
    assert list(reader) == []


def test_an_unknown_encoding_is_refused_before_reading(tmp_path):
    with pytest.raises(CareError, match="'latin-1' is not known; use one of big5, gb18030"):
        read_documents(tmp_path / "none", encoding="latin-1")
