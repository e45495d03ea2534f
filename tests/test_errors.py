import errno
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from care_accel import CareError
from care_accel.errors import Stopped, exit_code, full_disk, require_count, tells_full_disk


def raising(error):
    def command():
        raise error

    return command


def test_a_command_that_works_exits_with_0():
    assert exit_code(lambda: None) == 0


def test_a_user_s_mistake_is_one_line_and_code_2(capsys):
    assert exit_code(raising(CareError("first\n  second"))) == 2
    assert capsys.readouterr().err == "error: first second\n"


@pytest.mark.parametrize(
    ("ended", "code"),
    [(KeyboardInterrupt(), 130), (Stopped(signal.SIGINT), 130), (Stopped(signal.SIGTERM), 143)],
)
def test_a_command_that_a_signal_ended_says_how_to_go_on_and_exits_with_its_code(ended, code, capsys):
    assert exit_code(raising(ended)) == code
    assert "run the same command again" in capsys.readouterr().err


FULL = [
    (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full (Disk quota exceeded)"),
    (OSError(errno.EFBIG, "File too large"), "the disk is full (File too large)"),
    (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full"),
    (sqlite3.OperationalError("database or disk is full"), "the disk is full"),
    (OSError("561923 requested and 76768 written"), "the disk is full"),
    (
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
        "the disk is full",
    ),
    (CareError("index: the disk is full; free some space"), "the disk is full"),
]


@pytest.mark.parametrize(("cause", "said"), FULL)
def test_a_full_disk_is_known_by_what_each_library_says(cause, said):
    assert full_disk(cause) == said


@pytest.mark.parametrize(
    "cause", [OSError(errno.EACCES, "Permission denied"), ValueError("28"), OSError("x")]
)
def test_another_failure_is_no_full_disk(cause):
    assert full_disk(cause) is None


def test_a_full_disk_under_a_library_is_told_with_the_place_and_other_failures_are_left():
    said = r"^/srv/a: the disk is full; free some space, or choose a folder on another disk$"
    with pytest.raises(CareError, match=said), tells_full_disk("/srv/a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(CareError, match=r"^inner: the disk is full$"), tells_full_disk("/srv/a"):
        raise CareError("inner: the disk is full")
    inside = Path("/srv/.a-12345678/new")
    with pytest.raises(CareError, match=said), tells_full_disk("/srv/a", inside=inside):
        raise CareError(f"{inside}/vectors: the disk is full; free some space")
    with pytest.raises(ZeroDivisionError), tells_full_disk("/srv/a"):
        raise ZeroDivisionError


def test_a_command_on_a_full_disk_ends_with_one_line_and_code_2(capsys):
    assert exit_code(raising(OSError(errno.ENOSPC, "No space left on device", "/srv/a/b"))) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: /srv/a/b: the disk is full; free some space")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("flush", [True, False])
def test_output_to_a_full_disk_ends_a_command_with_one_line(flush):
    code = f"""
import sys
from care_accel.errors import exit_code
sys.exit(exit_code(lambda: print("hits", flush={flush})))
"""
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert b"or where its output goes: the disk is full" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_mistake_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_code(raising(ZeroDivisionError()))


TABLE = "__import__('rich.console').console.Console().print('hits')"


@pytest.mark.parametrize(
    "prints", ['print("hits", flush=True)', 'print("hits")', TABLE, 'exit(print("usage"))']
)
def test_a_reader_that_has_gone_ends_a_command_without_a_word(prints):
    reading, writing = os.pipe()
    os.close(reading)
    code = f"""
import sys
from care_accel.errors import exit_code
sys.exit(exit_code(lambda: {prints}))
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_broken_connection_is_no_reader_that_has_gone():
    with pytest.raises(BrokenPipeError):
        exit_code(raising(BrokenPipeError()))


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "3", None, [1], np.array([1, 2]), np.array(1.5)])
def test_what_is_no_count_is_refused(value):
    with pytest.raises(CareError, match=r"k is .*; it must be a positive integer"):
        require_count("k", value)
    require_count("k", np.int64(3))
