"""Mistakes at the start of a shard's server or of the gateway before it are told in one line."""

import pytest

from care_accel import CareError, Collection
from care_accel.cli import main
from care_accel.cluster.servers.repository import read_shard, write_shard_repository


def test_shards_are_counted_from_one_on_the_command_line():
    assert read_shard("1/1") == (0, 1)
    assert read_shard("3/3") == (2, 3)
    for wrong in ("", "2", "a/b", "1/", "-1/3", "1/3/5"):
        with pytest.raises(CareError, match="such as 2/3"):
            read_shard(wrong)
    for wrong in ("0/3", "4/3", "1/0"):
        with pytest.raises(CareError, match="there is no such shard"):
            read_shard(wrong)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["serve", "--shard", "1/2"], "--shard needs --collection"),
        (["serve", "--shard", "3/2", "--collection", "c"], "there is no such shard"),
        (["serve", "--shard", "1/2", "--cluster", "auto"], "--shard works without --cluster only"),
        (["serve", "--shard", "1/2", "--collection", "c", "--repository", "r"], "not both"),
        (["gateway", "--no-require-all"], "--no-require-all needs the servers of several shards"),
        (["gateway", "--port", "0", "--server", "a:1", "--server", "a:1"], "given twice"),
        (["gateway", "--port", "0", "--server", "a:1", "--server", "b"], "'b' is not an address"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments, told, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_what_a_shard_cannot_serve_is_told_before_anything_is_written(model, tmp_path):
    Collection.create(tmp_path / "words", model, lexical=True)
    with pytest.raises(CareError, match=r"has a lexical index.*care-accel serve --cluster"):
        write_shard_repository(tmp_path / "r", tmp_path / "words", (0, 2), "care-mini")
    with pytest.raises(CareError, match="is not a collection"):
        write_shard_repository(tmp_path / "r", tmp_path / "none", (0, 2), "care-mini")
    Collection.create(tmp_path / "c", model)
    with pytest.raises(CareError, match="made by document encoder"):
        write_shard_repository(tmp_path / "r", tmp_path / "c", (0, 2), "care-mini", max_tokens=100)
    with pytest.raises(CareError, match="no shard 2 of 2"):
        write_shard_repository(tmp_path / "r", tmp_path / "c", (2, 2), "care-mini")
    assert not (tmp_path / "r").exists()
