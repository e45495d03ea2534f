import pytest

from care_accel import CareError
from care_accel.curation.sts.attempts import append_attempt, read_attempts


def test_a_line_that_is_half_written_is_cut_off_before_the_next_is_written(tmp_path):
    file = tmp_path / "work.jsonl"
    append_attempt(file, {"key": "a", "why": None})
    with file.open("a") as stream:
        stream.write('{"key": "half a li')
    before = file.read_bytes()
    assert list(read_attempts(file, repair=False)) == ["a"]
    assert file.read_bytes() == before  # somebody else may be writing it
    assert list(read_attempts(file)) == ["a"]
    append_attempt(file, {"key": "b", "why": "unchanged"})
    assert list(read_attempts(file)) == ["a", "b"]
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_broken_line_is_named_by_its_file(tmp_path):
    file = tmp_path / "work.jsonl"
    file.write_text("no json\n")
    with pytest.raises(CareError, match=r"work\.jsonl: has a line that is not JSON"):
        read_attempts(file)
    assert read_attempts(tmp_path / "nowhere") == {}
