import pyarrow as pa
import pytest
from pyarrow import parquet

from care_accel import CareError
from care_accel.collection.sources import read_documents


def test_only_the_columns_that_are_needed_are_read_from_parquet(tmp_path):
    table = pa.table(
        {"id": [1, 2], "text": ["a", "b"], "photo": [b"x", b"y"], "year": pa.array([2010, None], pa.int16())}
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    assert [row["year"] for row in read_documents(tmp_path, fields=["year"])] == [2010, None]
    with pytest.raises(CareError, match=r"a.parquet, row 1: the field 'photo' is a bytes"):
        list(read_documents(tmp_path, fields="*"))
    with pytest.raises(CareError, match=r"a.parquet: there is no 'x'; there are: id, text, photo, year"):
        list(read_documents(tmp_path, fields=["x"]))


def test_text_of_parquet_that_is_not_utf8_is_one_bad_row(tmp_path):
    text = pa.array([b"a", b"\xff", b"c"], pa.binary()).view(pa.string())
    parquet.write_table(pa.table({"id": ["1", "2", "3"], "text": text}), tmp_path / "a.parquet")
    with read_documents(tmp_path, skip_bad=tmp_path / "bad") as reader:
        assert [row["id"] for row in reader] == ["1", "3"]
    assert 'row 2", "reason": "is not UTF-8"' in (tmp_path / "bad").read_text()


def test_a_parquet_file_that_breaks_off_is_refused(tmp_path):
    parquet.write_table(pa.table({"id": ["1"], "text": ["a"]}), tmp_path / "a")
    (tmp_path / "b").write_bytes((tmp_path / "a").read_bytes()[:-8])
    with pytest.raises(CareError, match="b: not a whole Parquet file: "):
        list(read_documents(tmp_path / "b"))
