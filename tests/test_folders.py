import os
import signal
import subprocess
import sys
import tempfile

import pytest

from care_accel import folders
from care_accel.errors import CareError
from care_accel.folders import replaced_folder, temporary_folder

# Stops in the middle: of a replacement, or with a temporary folder.
_STOPPING = """
import signal, sys, time
from pathlib import Path
from care_accel import folders
{body}
"""
_REPLACING = """
with folders.replaced_folder(Path(sys.argv[1]), "care.json") as built:
    (built / "care.json").write_text("new")
    print("here", flush=True)
    time.sleep(600)
"""
_TEMPORARY = """
with folders.temporary_folder(sys.argv[1]) as made:
    (made / "large").write_text("x")
    print("here", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def stopped():
    """Return a function that runs a program until it has said that it is in the middle, and kills it at the end."""
    running = []

    def start(body, *arguments):
        command = [sys.executable, "-c", _STOPPING.format(body=body), *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout.readline() == "here\n"
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


def killed(process):
    process.send_signal(signal.SIGKILL)
    process.wait()


def replace(folder, text):
    with replaced_folder(folder, "care.json") as built:
        (built / "care.json").write_text(text)


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_what_a_killed_process_left_beside_a_folder_is_removed_by_the_next_one(
    tmp_path, stopped, monkeypatch
):
    folder = tmp_path / "index"
    replace(folder, "old")
    killed(stopped(_REPLACING, folder))
    assert len(names(tmp_path)) == 2
    assert (folder / "care.json").read_text() == "old"
    replace(folder, "newer")
    assert len(names(tmp_path)) == 2  # it could be of a process that has just begun
    monkeypatch.setattr(folders, "_YOUNG", 0.0)
    replace(folder, "newest")
    assert names(tmp_path) == ["index"]
    assert (folder / "care.json").read_text() == "newest"


def test_the_folder_of_a_process_that_runs_is_left(tmp_path, stopped, monkeypatch):
    monkeypatch.setattr(folders, "_YOUNG", 0.0)
    stopped(_REPLACING, tmp_path / "index")
    before = names(tmp_path)
    replace(tmp_path / "index", "mine")
    assert names(tmp_path) == [*before, "index"]


def test_a_folder_that_was_moved_away_when_its_process_was_killed_is_put_back(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "_YOUNG", 0.0)
    moved = tmp_path / ".index-abcdefgh" / "old"
    moved.mkdir(parents=True)
    (moved / "care.json").write_text("old")
    with pytest.raises(RuntimeError), replaced_folder(tmp_path / "index", "care.json"):
        raise RuntimeError
    assert names(tmp_path) == ["index"]
    assert (tmp_path / "index" / "care.json").read_text() == "old"


def test_a_folder_that_cannot_be_put_back_is_kept(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folders, "_YOUNG", 0.0)
    moved = tmp_path / ".index-abcdefgh" / "old"
    moved.mkdir(parents=True)
    (moved / "care.json").write_text("old")
    monkeypatch.setattr("care_accel.folders.os.replace", refuse)
    with pytest.raises(RuntimeError), replaced_folder(tmp_path / "index", "care.json"):
        raise RuntimeError
    assert (moved / "care.json").read_text() == "old"


@pytest.mark.parametrize("name", [".index-old_copy", ".index-backup", ".other-abcdefgh"])
def test_what_somebody_else_has_put_there_is_left(tmp_path, name, monkeypatch):
    monkeypatch.setattr(folders, "_YOUNG", 0.0)
    (tmp_path / name / "mine").mkdir(parents=True)
    replace(tmp_path / "index", "new")
    assert names(tmp_path) == sorted([name, "index"])
    assert names(tmp_path / name) == ["mine"]


def test_where_two_names_cannot_be_exchanged_folders_are_renamed(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "_exchanged", lambda *_: False)
    replace(tmp_path / "index", "old")
    replace(tmp_path / "index", "new")
    assert names(tmp_path) == ["index"]
    assert (tmp_path / "index" / "care.json").read_text() == "new"


def test_temporary_folders_of_killed_processes_are_removed_and_those_in_use_are_left(
    tmp_path, stopped, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(folders, "_YOUNG", 0.0)
    killed(stopped(_TEMPORARY, "care-test-"))
    (left,) = names(tmp_path)
    with temporary_folder("care-test-") as mine:
        assert names(tmp_path) == [mine.name]
        assert mine.name != left
    stopped(_TEMPORARY, "care-test-")
    (other,) = names(tmp_path)
    with temporary_folder("care-test-") as mine:
        assert names(tmp_path) == sorted([other, mine.name])
    assert names(tmp_path) == [other]


def test_a_link_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(folders, "_YOUNG", -1.0)
    (tmp_path / "data").mkdir()
    (tmp_path / "care-test-abcdefgh").symlink_to(tmp_path / "data")
    with temporary_folder("care-test-"):
        pass
    assert names(tmp_path) == ["care-test-abcdefgh", "data"]


def test_folders_of_other_users_are_left(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(folders, "_YOUNG", -1.0)
    (tmp_path / "care-test-abcdefgh").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with temporary_folder("care-test-"):
        pass
    assert names(tmp_path) == ["care-test-abcdefgh"]


def test_a_place_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)
    with (
        pytest.raises(CareError, match=r"not writable \(Permission denied\)"),
        replaced_folder(tmp_path / "new", "care.json", []),
    ):
        pass
