"""Servers here are small programs of the test's own, with real processes and signals."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from care_accel.serving.tritonserver.supervisor import dead_stubs, supervise

SUPERVISE = "import os, sys; from care_accel.serving.tritonserver.supervisor import supervise; sys.exit(supervise(sys.argv[1:], os.environ))"


def program(tmp_path, text):
    """Return the command of a server that appends to the file `starts` whenever it starts."""
    file = tmp_path / "server.py"
    file.write_text(
        f"import os, signal, subprocess, sys, time\nopen({str(tmp_path / 'starts')!r}, 'a').write('x')\n"
        f"starts = len(open({str(tmp_path / 'starts')!r}).read())\n{text}\n"
    )
    return [sys.executable, str(file)]


def starts(tmp_path):
    file = tmp_path / "starts"
    return len(file.read_text()) if file.exists() else 0


@pytest.mark.parametrize("code", [0, 1, 7])
def test_a_server_that_ends_at_once_is_not_restarted_and_its_code_is_returned(tmp_path, code):
    assert supervise(program(tmp_path, f"sys.exit({code})"), os.environ) == code
    assert starts(tmp_path) == 1


def test_a_server_whose_model_process_has_died_is_restarted(tmp_path):
    said = []
    # The first server loses a child and does not care, as tritonserver does; the second one ends.
    command = program(
        tmp_path,
        "if starts == 1:\n    child = subprocess.Popen(['sh', '-c', 'kill -9 $$'])\n    time.sleep(60)\nsys.exit(0)",
    )
    assert supervise(command, os.environ, said.append) == 0
    assert starts(tmp_path) == 2
    assert "a model's process" in said[0]
    assert "has died; restarting it" in said[0]


def test_a_server_that_was_killed_is_restarted(tmp_path):
    said = []
    command = program(tmp_path, "if starts == 1:\n    os.kill(os.getpid(), signal.SIGKILL)\nsys.exit(0)")
    assert supervise(command, os.environ, said.append) == 0
    assert starts(tmp_path) == 2
    assert said == ["the server exited with code -9; restarting it"]


def test_a_server_that_dies_again_and_again_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("care_accel.serving.tritonserver.supervisor.time.sleep", lambda seconds: None)
    command = program(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    assert supervise(command, os.environ, lambda line: None) == 128 + 9
    assert starts(tmp_path) == 6


def test_a_signal_between_two_servers_starts_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr("care_accel.serving.tritonserver.supervisor._POLL_S", 0.01)
    command = program(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    restarts = []

    def say(line):
        restarts.append(line)
        if len(restarts) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    assert supervise(command, os.environ, say) == 128 + 9
    assert starts(tmp_path) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_server_whose_code_is_returned(tmp_path, number):
    command = program(
        tmp_path,
        f"signal.signal({int(number)}, lambda *_: sys.exit(5))\n"
        f"open({str(tmp_path / 'ready')!r}, 'w').close()\ntime.sleep(60)",
    )
    process = subprocess.Popen([sys.executable, "-c", SUPERVISE, *command])
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(30) == 5
    assert starts(tmp_path) == 1


def test_the_server_ends_with_the_process_that_keeps_it(tmp_path):
    command = program(
        tmp_path, f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", SUPERVISE, *command])
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.02)
    server = int((tmp_path / "pid").read_text())
    process.kill()
    process.wait()
    end = time.monotonic() + 30
    while _runs(server) and time.monotonic() < end:
        time.sleep(0.02)
    assert not _runs(server)


# A process whose thread starts a supervisor and ends, and which lives on.
START = """
import os, subprocess, sys, threading
start = lambda: subprocess.Popen([sys.executable, "-c", sys.argv[1].replace("PARENT", str(os.getpid())), *sys.argv[2:]])
thread = threading.Thread(target=start)
thread.start()
thread.join()
print("started", flush=True)
sys.stdin.read()
"""
UNDER_PARENT = SUPERVISE.replace("os.environ)", "os.environ, parent=PARENT)")


@pytest.mark.parametrize("way", [signal.SIGKILL, None])
def test_the_server_ends_with_the_process_that_wanted_it_however_that_ends(tmp_path, way):
    command = program(
        tmp_path,
        f"signal.signal(signal.SIGTERM, lambda *_: sys.exit(open({str(tmp_path / 'told')!r}, 'w').close()))\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)",
    )
    process = subprocess.Popen(
        [sys.executable, "-c", START, UNDER_PARENT, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"started\n"
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.02)
    server = int((tmp_path / "pid").read_text())
    time.sleep(0.5)  # more than a look at the parent
    assert _runs(server), "the end of the thread that started it is not the end of its process"
    if way is None:
        process.stdin.close()
    else:
        process.send_signal(way)
    process.wait(30)
    end = time.monotonic() + 30
    while _runs(server) and time.monotonic() < end:
        time.sleep(0.02)
    assert not _runs(server)
    assert (tmp_path / "told").exists(), "it is asked to end, so that it can finish its work"
    assert starts(tmp_path) == 1
    process.stdin.close()
    process.stdout.close()


def test_handlers_are_what_they_were_afterwards(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    supervise(program(tmp_path, ""), os.environ)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_process_that_lives_is_not_dead():
    child = subprocess.Popen(["sleep", "60"])
    assert dead_stubs(os.getpid()).isdisjoint({child.pid})
    child.kill()
    end = time.monotonic() + 30
    while child.pid not in dead_stubs(os.getpid()) and time.monotonic() < end:
        time.sleep(0.02)
    assert child.pid in dead_stubs(os.getpid())
    child.wait()
    assert child.pid not in dead_stubs(os.getpid())


def test_children_of_every_thread_are_seen():
    found = []

    def start():
        child = subprocess.Popen(["sh", "-c", "kill -9 $$"])
        end = time.monotonic() + 30
        while child.pid not in dead_stubs(os.getpid()) and time.monotonic() < end:
            time.sleep(0.02)
        found.append(child.pid in dead_stubs(os.getpid()))
        child.wait()

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert found == [True]


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_a_server_started_does_not_outlive_it(tmp_path):
    """As a stub does that was loading a model."""
    code = (
        "import subprocess, sys; child = subprocess.Popen(['sleep', '60']); "
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid))"
    )
    assert supervise([sys.executable, "-c", code], os.environ) == 0
    status = Path(f"/proc/{(tmp_path / 'child').read_text()}/status")
    end = time.monotonic() + 10
    while status.exists() and "\nState:\tZ" not in status.read_text() and time.monotonic() < end:
        time.sleep(0.05)
    assert not status.exists() or "\nState:\tZ" in status.read_text()
