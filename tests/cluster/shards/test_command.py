"""Mistakes on the command line are told in one line, with or without Ray."""

import pytest

from care_accel import Collection
from care_accel.cli import main


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--shards", "2"], "--shards needs --cluster"),
        (["--no-require-all"], "--no-require-all needs --cluster"),
        (["--cluster", "auto"], "--cluster needs --collection and --shards"),
        (["--cluster", "auto", "--index", "i"], "--index works without --cluster only"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, told, capsys):
    assert main(["serve", *options]) == 2
    assert told in capsys.readouterr().err


def test_without_the_extra_it_is_named(monkeypatch, capsys):
    monkeypatch.setattr("care_accel.cluster.shards.deployment.find_spec", lambda name: None)
    assert main(["serve", "--cluster", "auto", "--collection", "c", "--shards", "2"]) == 2
    error = capsys.readouterr().err
    assert "pip install 'care-accel[cluster]'" in error
    assert error.count("\n") == 1


def test_what_is_missing_is_told_before_anything_starts(monkeypatch, model, tmp_path, capsys):
    monkeypatch.setattr("care_accel.cluster.shards.deployment.find_spec", lambda name: object())
    serve = ["serve", "--cluster", "127.0.0.1:1", "--shards"]
    assert main([*serve, "2", "--collection", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err
    Collection.create(tmp_path / "empty", model)
    assert main([*serve, "0", "--collection", str(tmp_path / "empty")]) == 2
    assert "shards is 0" in capsys.readouterr().err


def test_a_head_that_does_not_answer_is_told(model, tmp_path, capsys):
    pytest.importorskip("grpc_reflection", reason="needs the extra cluster: make cluster")
    Collection.create(tmp_path / "empty", model)
    serve = ["serve", "--cluster", "127.0.0.1:1", "--shards", "2"]
    assert main([*serve, "--collection", str(tmp_path / "empty")]) == 2
    assert "no Ray cluster answers at 127.0.0.1:1" in capsys.readouterr().err
