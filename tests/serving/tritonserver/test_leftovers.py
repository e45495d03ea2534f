"""Folders that a killed server leaves in /tmp. Those of live servers, and all that is not empty, stay."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from care_accel.serving.tritonserver import leftovers


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(leftovers, "_FOLDER", tmp_path)
    return tmp_path


@pytest.fixture
def server(tmp_path_factory):
    """Return a process with the server's name."""
    program = tmp_path_factory.mktemp("bin") / "tritonserver"
    program.symlink_to(sys.executable)
    with subprocess.Popen([program, "-c", "print(flush=True); input()"], stdin=-1, stdout=-1) as process:
        process.stdout.readline()
        yield process
        process.kill()


def test_the_empty_folder_of_a_dead_server_goes_and_others_stay(folder, monkeypatch):
    monkeypatch.setattr(leftovers, "_starts_of_servers", list)
    begun = leftovers.now() - 0.5
    for name in ("python_env_aaaaaa", "python_env_bbbbbb", "other"):
        (folder / name).mkdir()
    (folder / "python_env_bbbbbb" / "bin").mkdir()
    leftovers.remove_environments(begun, begun)
    assert sorted(os.listdir(folder)) == ["other", "python_env_bbbbbb"]


def test_what_was_made_before_the_dead_server_started_stays(folder, monkeypatch):
    monkeypatch.setattr(leftovers, "_starts_of_servers", list)
    (folder / "python_env_aaaaaa").mkdir()
    time.sleep(0.05)
    leftovers.remove_environments(leftovers.now())
    assert os.listdir(folder) == ["python_env_aaaaaa"]


def test_what_may_belong_to_a_live_server_stays(folder, monkeypatch):
    begun = leftovers.now() - 4
    (folder / "python_env_aaaaaa").mkdir()
    monkeypatch.setattr(leftovers, "_starts_of_servers", lambda: [leftovers.now() - 1])
    leftovers.remove_environments(begun)
    assert os.listdir(folder) == ["python_env_aaaaaa"]
    monkeypatch.setattr(leftovers, "_starts_of_servers", lambda: [leftovers.now() - 60])
    leftovers.remove_environments(begun)
    assert os.listdir(folder) == []


def test_live_servers_are_found_with_the_times_of_their_starts(server):
    def started():
        return [start for start in leftovers._starts_of_servers() if abs(start - begun) < 0.5]

    # proc(5): the start time is field 22; after the name in parentheses comes field 3.
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    begun = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    assert begun <= leftovers.now() < begun + 60
    assert begun in started()
    server.kill()
    server.wait()
    assert begun not in started()
