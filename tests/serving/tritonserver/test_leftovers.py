"""Folders that a killed server leaves in /tmp. Those of live servers, and all that is not empty, stay."""

import os
import subprocess
import sys
import time

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


def test_what_may_belong_to_a_live_server_stays_until_it_ends(folder, server):
    begun = leftovers.now() - 4
    (folder / "python_env_aaaaaa").mkdir()
    leftovers.remove_environments(begun)
    assert os.listdir(folder) == ["python_env_aaaaaa"]
    server.kill()
    server.wait()
    leftovers.remove_environments(begun)
    assert os.listdir(folder) == []
